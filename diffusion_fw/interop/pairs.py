"""Which published tensors one of our weights is made of, in both directions.

A format lists a Pair for every weight of our network. ``to_ours`` and ``to_theirs`` then convert whole state dicts, and
say which keys are missing, left over, or of a wrong shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffusion_fw.registry import ConfigError

MAX_NAMES = 12
"""Keys that a message lists."""

Read = Callable[[Sequence[Tensor]], Tensor]
Write = Callable[[Tensor], Sequence[Tensor]]


def _first(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0]


def _alone(tensor: Tensor) -> Sequence[Tensor]:
    return (tensor,)


@dataclass(frozen=True)
class Pair:
    """One of our weights, the published ones that it is made of, and the two conversions.

    ``read`` makes ours of theirs, ``write`` theirs of ours, and each undoes the other.
    """

    ours: str
    theirs: tuple[str, ...]
    read: Read = _first
    write: Write = _alone


def same(ours: str, theirs: str) -> Pair:
    """The same tensor under two names."""
    return Pair(ours, (theirs,))


def reshaped(ours: str, theirs: str, own: Sequence[int], other: Sequence[int]) -> Pair:
    """The same values, of shape ``own`` here and ``other`` there, as of a linear layer and a convolution of size 1."""

    def read(tensors: Sequence[Tensor]) -> Tensor:
        if tensors[0].shape != tuple(other):
            raise RuntimeError
        return tensors[0].reshape(*own)

    return Pair(ours, (theirs,), read, lambda tensor: (tensor.reshape(*other),))


def transposed(ours: str, theirs: str) -> Pair:
    """A matrix that is stored as (inputs, outputs) there."""
    return Pair(ours, (theirs,), lambda tensors: tensors[0].mT.contiguous(), lambda tensor: (tensor.mT.contiguous(),))


def stacked(ours: str, theirs: Sequence[str]) -> Pair:
    """Equal tensors that are one along the first axis here, as query, key and value."""
    return Pair(ours, tuple(theirs), lambda tensors: torch.cat(list(tensors)), lambda tensor: tensor.chunk(len(theirs)))


def check_expressible(name: str, absent: Mapping[str, bool]) -> None:
    """ConfigError where one of ``absent`` is true: what a network has, by key, and the format ``name`` has not."""
    found = [key for key, present in absent.items() if present]
    if found:
        raise ConfigError(f"weights of {name} cannot hold this network, which has {', '.join(found)}")


def to_ours(
    pairs: Iterable[Pair], published: Mapping[str, Tensor], network: nn.Module, source: str
) -> dict[str, Tensor]:
    """Our state dict for ``network``, float32, from a published one.

    Raises ConfigError that lists the keys that are missing there, that are left over, and whose shapes differ.
    """
    own = network.state_dict()
    made: dict[str, Tensor] = {}
    missing: list[str] = []
    misshapen: list[str] = []
    used: set[str] = set()
    for pair in pairs:
        used.update(pair.theirs)
        absent = [key for key in pair.theirs if key not in published]
        missing += absent
        if absent:
            continue
        shapes = ", ".join(f"{key} {tuple(published[key].shape)}" for key in pair.theirs)
        try:
            value = pair.read([published[key] for key in pair.theirs])
        except (RuntimeError, IndexError):
            misshapen.append(shapes)
            continue
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None
        if value.shape != own[pair.ours].shape:
            misshapen.append(f"{shapes} instead of {tuple(own[pair.ours].shape)}")
            continue
        made[pair.ours] = value.to(own[pair.ours].dtype) if own[pair.ours].is_floating_point() else value
    left = [key for key in published if key not in used]
    problems = [
        *_listed("missing", missing),
        *_listed("left over", left),
        *_listed("of another shape", misshapen),
    ]
    if problems:
        raise ConfigError(
            f"{source}: its weights are not those of the network that was recognised; {'; '.join(problems)}"
        )
    unpaired = own.keys() - made.keys()
    if unpaired:
        raise AssertionError(f"the format gives no weights for {sorted(unpaired)}")
    return made


def to_theirs(pairs: Iterable[Pair], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published state dict of our weights."""
    return {
        key: value.contiguous()
        for pair in pairs
        for key, value in zip(pair.theirs, pair.write(weights[pair.ours]), strict=True)
    }


def _listed(title: str, keys: Sequence[str]) -> list[str]:
    more = f", ... ({len(keys)} in all)" if len(keys) > MAX_NAMES else ""
    return [f"{title}: {', '.join(keys[:MAX_NAMES])}{more}"] if keys else []
