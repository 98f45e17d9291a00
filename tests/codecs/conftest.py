"""A small autoencoder that was trained on the digits, and a model of its latents."""

from __future__ import annotations

import pytest
from codec_choices import AUTOENCODER, LATENT

from diffusion_fw.app.train import train


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory):
    """A cache of these tests alone."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder / "diffusion_fw"


@pytest.fixture(scope="module")
def autoencoder(tiny, tmp_path_factory, own_cache):
    """The folder of a run that has trained an autoencoder."""
    folder = tmp_path_factory.mktemp("autoencoder")
    train(tiny(AUTOENCODER), folder)
    return folder


@pytest.fixture(scope="module")
def codec_file(autoencoder):
    """The file of the codec that it has written."""
    return autoencoder / "checkpoints" / "codec.safetensors"


@pytest.fixture(scope="module")
def latent_run(tiny, tmp_path_factory, codec_file):
    """The folder of a run that has trained a model of its latents."""
    folder = tmp_path_factory.mktemp("latent")
    train(tiny({**LATENT, "codec.path": str(codec_file)}), folder)
    return folder
