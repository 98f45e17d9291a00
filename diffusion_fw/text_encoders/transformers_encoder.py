"""Text encoders of the package transformers."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diffusion_fw.condition import Told
from diffusion_fw.files import with_home
from diffusion_fw.registry import ConfigError, PositiveInt, Size, register
from diffusion_fw.text_encoders.encoder import TextEncoder

READ = (".json", ".safetensors", ".txt", ".model")
"""The files of a folder that an encoder and its tokenizer consist of; others could run code, and none is read."""


@register("text_encoder", "transformers")
@dataclass(frozen=True)
class Transformers(TextEncoder):
    """The last hidden states of a text encoder in a ``folder``, as save_pretrained writes it: CLIP, T5, BERT, ...

    Rombach et al. 2022 (CLIP, after Radford et al. 2021); Saharia et al. 2022, "Imagen" (T5). The folder holds
    config.json, the weights as safetensors and the tokenizer. Nothing is downloaded, and no code of the folder is run.
    A caption has at most ``length`` tokens, cut off after that. The encoder runs once for each caption, ``batch_size``
    at a time.

    Raises ConfigError without the package (pip install "diffusion-fw[transformers]"), and for a folder that is none.
    """

    folder: str
    length: Size = 77
    batch_size: PositiveInt = 64

    @functools.cached_property
    def path(self) -> Path:
        """The folder; ConfigError if it is none."""
        path = Path(with_home(self.folder))
        if not (path / "config.json").is_file():
            raise ConfigError(
                f"text_encoder.folder={self.folder} has no config.json; give the folder of a text encoder as "
                "save_pretrained writes it"
            )
        return path

    @functools.cached_property
    def settings(self) -> Any:
        """The configuration of the encoder."""
        return self._read("AutoConfig")

    @property
    def size(self) -> int:
        settings = getattr(self.settings, "text_config", None) or self.settings
        return int(getattr(settings, "hidden_size", None) or settings.d_model)

    def fingerprint(self) -> str:
        content = hashlib.sha256(f"transformers-{self.length}".encode())
        for file in sorted(self.path.iterdir()):
            if file.is_file() and file.suffix in READ:
                content.update(hashlib.sha256(file.read_bytes()).digest())
        return content.hexdigest()

    @torch.no_grad()
    def __call__(self, captions: Sequence[str]) -> Told:
        tokenizer, model = self._read("AutoTokenizer"), self._model
        found = []
        for first in range(0, len(captions), self.batch_size):
            part = list(captions[first : first + self.batch_size])
            tokens = tokenizer(part, padding="max_length", truncation=True, max_length=self.length, return_tensors="pt")
            states = model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
            # The empty caption is told nothing, whatever tokens mark its ends.
            words = torch.tensor([bool(caption.strip()) for caption in part])
            found.append(Told(states.float(), tokens.attention_mask.bool() & words[:, None]))
        return Told.cat(found)

    @functools.cached_property
    def _model(self) -> Any:
        kind = str(self.settings.model_type)
        name = {"clip": "CLIPTextModel", "clip_text_model": "CLIPTextModel"}.get(kind, "AutoModel")
        name = "T5EncoderModel" if "t5" in kind else name
        return self._read(name, use_safetensors=True).eval()

    def _read(self, name: str, **settings: Any) -> Any:
        """An object of the package from the folder."""
        path = self.path
        try:
            import transformers
        except ImportError as error:
            raise ConfigError(f'text_encoder=transformers: {error}; pip install "diffusion-fw[transformers]"') from None
        try:
            loader = getattr(transformers, name)
            return loader.from_pretrained(path, local_files_only=True, trust_remote_code=False, **settings)
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = str(error).splitlines()[0][:200]
            raise ConfigError(f"text_encoder.folder={self.folder}: {reason}") from None
