"""The base of all encoders of text."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from diffusion_fw.condition import Told


class TextEncoder(ABC):
    """captions -> embeddings float32 (N, length, size), with told (N, length) true where a caption has a token.

    It is fixed: it learns nothing in the training of a diffusion model. The same captions give the same embeddings.
    """

    @property
    @abstractmethod
    def length(self) -> int:
        """The most tokens of a caption; the rest is cut off."""

    @property
    @abstractmethod
    def size(self) -> int:
        """The length of an embedding."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of all that the embeddings depend on; they are cached under it."""

    @abstractmethod
    def __call__(self, captions: Sequence[str]) -> Told:
        """The embeddings, on the host."""
