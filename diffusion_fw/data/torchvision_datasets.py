"""Data sets of torchvision, which downloads them on request."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from diffusion_fw.data.formats.map_style import DatasetData, MapStyle
from diffusion_fw.files import with_home
from diffusion_fw.registry import ConfigError, register

BY_SPLIT = ("SVHN", "STL10")
"""Those that name the split; the others say whether it is that of training."""


@register("data", "torchvision")
@dataclass(frozen=True)
class Torchvision(DatasetData):
    """The ``dataset_name`` of torchvision, with its published split; its pixels and classes as they are.

    It is read from ``root``, where ``download`` puts it first: a run downloads nothing unless it is asked to.
    torchvision checks what it downloads, and of some also what is there. Raises ConfigError without torchvision, and
    where the files are not there.
    """

    dataset_name: Literal["MNIST", "FashionMNIST", "KMNIST", "USPS", "CIFAR10", "CIFAR100", "SVHN", "STL10"]
    root: str = "data"
    download: bool = False

    places: ClassVar[tuple[str, ...]] = ("root",)
    fetched_by: ClassVar[str] = "download"

    @functools.cached_property
    def known(self) -> Any:
        """torchvision's datasets."""
        try:
            from torchvision import datasets
        except ImportError as error:
            raise ConfigError(
                f'data=torchvision: {error}; install it by pip install "diffusion-fw[torchvision]"'
            ) from None
        return datasets

    def dataset(self, split: str) -> MapStyle | None:
        which = {"split": split} if self.dataset_name in BY_SPLIT else {"train": split == "train"}
        try:
            found: MapStyle = getattr(self.known, self.dataset_name)(
                with_home(self.root), **which, download=self.download
            )
        except (RuntimeError, OSError, ModuleNotFoundError) as error:
            said = " ".join(str(error).split())
            remedy = "" if self.download else "; data.download=true gets it"
            raise ConfigError(
                f"data.root={self.root}: torchvision's {self.dataset_name}: {said:.300}{remedy}"
            ) from None
        return found
