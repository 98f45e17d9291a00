"""A caption, as a sequence of embeddings."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from diffusion_fw import cache
from diffusion_fw.condition import Told
from diffusion_fw.conditions.source import Asked, Kind, Source, Table
from diffusion_fw.data.dataset import Data
from diffusion_fw.denoiser import Noise
from diffusion_fw.files import default_cache
from diffusion_fw.registry import ConfigError, Runtime, register
from diffusion_fw.text_encoders.encoder import TextEncoder


@register("condition", "text")
@dataclass(frozen=True)
class Text(Source):
    """The caption of an example, embedded by text_encoder=... as a sequence of vectors, one for each token.

    Each caption is embedded once; the embeddings are kept in the cache under the encoder's fingerprint. The empty
    caption is told nothing. In sampling ``prompt="a red heart"`` is what all samples are told, and
    ``prompt=[one,another]`` what they are told in turn; without, they are told the captions of the held-out examples.

    Raises ConfigError for data without captions.
    """

    kind: ClassVar[Kind] = "sequences"
    asked_by: ClassVar[tuple[str, ...]] = ("prompt",)

    encoder: Runtime[TextEncoder | None] = None

    @property
    def reader(self) -> TextEncoder:
        """The encoder; ConfigError without one."""
        if self.encoder is None:
            raise ConfigError("condition=text needs an encoder; choose text_encoder=hashing")
        return self.encoder

    def size(self, data: Data) -> tuple[int, int]:
        if data.captions("train") is None:
            raise ConfigError(
                f"condition=text needs captions, which the data ({type(data).__name__}) have not; choose data=emoji, a "
                "folder with captions.csv, or leave text out of condition"
            )
        return self.reader.length, self.reader.size

    def table(self, data: Data, split: str) -> Table:
        captions = data.captions(split)
        assert captions is not None
        distinct = {caption: row for row, caption in enumerate(dict.fromkeys(captions))}
        index = torch.tensor([distinct[caption] for caption in captions])
        return Table(self.embedded(tuple(distinct)), index, tuple(distinct))

    def embedded(self, captions: tuple[str, ...]) -> Told:
        """The embeddings of captions, from the cache if they are there."""
        encoder = self.reader
        content = ("captions", encoder.fingerprint(), captions)
        key = hashlib.sha256(repr(content).encode()).hexdigest()

        def compute() -> cache.Tensors:
            found = encoder(captions)
            return {"value": found.value.contiguous(), "told": found.told.contiguous()}

        def check(found: cache.Tensors) -> None:
            if found.keys() != {"value", "told"} or found["told"].shape != (len(captions), encoder.length):
                raise ValueError("it is of other captions")

        return Told(**cache.cached(default_cache() / f"text-{key}.safetensors", compute, check))

    def asked(self, asked: Asked, shape: tuple[int, ...], noise: Noise) -> Table:
        given: Any = asked["prompt"]
        prompts = tuple(given) if isinstance(given, (list, tuple)) else (str(given),)
        if not prompts:
            raise ConfigError("prompt=[]: must have at least one; leave it out for captions of the held-out examples")
        return Table(self.reader(prompts), torch.arange(len(prompts)), prompts)
