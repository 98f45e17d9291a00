"""Embeddings of words by hashing, without weights."""

from __future__ import annotations

import functools
import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from diffusion_fw.condition import Told
from diffusion_fw.registry import Range, Size, register
from diffusion_fw.text_encoders.encoder import TextEncoder

GRAMS = (3, 4)
"""Lengths of the parts of a word, which has < and > at its ends."""
VERSION = 1


@register("text_encoder", "hashing")
@dataclass(frozen=True)
class Hashing(TextEncoder):
    """A token for each word: the mean of fixed random vectors of the word and of its parts of 3 and 4 characters.

    Weinberger et al. 2009 (hashing instead of a vocabulary); Bojanowski et al. 2017 (parts of words), with vectors that
    a hash draws instead of learned ones, so that "heart" and "hearts" are close, and words without common parts are
    nearly orthogonal. It knows no meaning: a model learns from the captions of its data what each word looks like.
    Case, accents and punctuation are ignored. The vectors are scaled to length sqrt(size).

    ``length`` is the most words of a caption; the others are cut off.
    """

    length: Size = 12
    size: Annotated[int, Range(8, 4096)] = 64

    def fingerprint(self) -> str:
        return f"hashing-{VERSION}-{self.length}-{self.size}"

    def __call__(self, captions: Sequence[str]) -> Told:
        words = [words_of(caption)[: self.length] for caption in captions]
        value = torch.zeros(len(captions), self.length, self.size)
        for row, found in enumerate(words):
            for place, word in enumerate(found):
                value[row, place] = embedding(word, self.size)
        counts = torch.tensor([len(found) for found in words])
        return Told(value, torch.arange(self.length) < counts[:, None])


def words_of(caption: str) -> list[str]:
    """The words of a caption, in small letters without accents."""
    plain = unicodedata.normalize("NFKD", caption.casefold())
    return re.findall(r"\w+", "".join(letter for letter in plain if not unicodedata.combining(letter)))


@functools.lru_cache(maxsize=1 << 16)
def embedding(word: str, size: int) -> Tensor:
    """The vector of a word (size,), of length sqrt(size)."""
    marked = f"<{word}>"
    parts = {marked[start : start + n] for n in GRAMS for start in range(len(marked) - n + 1)} - {marked}
    whole = drawn(marked, size)
    if not parts:
        return whole
    # The whole word has half of the weight, so that words with common parts stay apart.
    shared = torch.stack([drawn(part, size) for part in sorted(parts)]).mean(0)
    vector = whole / whole.norm() + shared / shared.norm()
    result: Tensor = vector / vector.norm() * size**0.5
    return result


def drawn(text: str, size: int) -> Tensor:
    """Standard normal numbers (size,) that depend on the text alone."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))
