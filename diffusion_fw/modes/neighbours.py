"""The training examples that are nearest to samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diffusion_fw.data.dataset import READ_AT_ONCE, Examples, from_model, to_model
from diffusion_fw.metrics.feature_statistics import BATCH, extract
from diffusion_fw.modes.mode import SHOWN, Mode, Model, Outcome
from diffusion_fw.registry import Size, register

Embedding = Callable[[Tensor], Tensor]
"""From examples as the data hold them to vectors (N, D) on the host."""

QUERIES_AT_ONCE = 1000


def nearest(
    queries: Tensor, examples: Examples, embed: Embedding, count: int, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """The distances and the indices (N, count) of the examples that are nearest to the queries (N, D), on the host.

    The device holds READ_AT_ONCE examples and QUERIES_AT_ONCE queries at once.
    """
    count = min(count, len(examples))
    distances = torch.full((len(queries), count), torch.inf, dtype=torch.float64)
    indices = torch.zeros(len(queries), count, dtype=torch.int64)
    for first in range(0, len(examples), READ_AT_ONCE):
        part = range(first, min(first + READ_AT_ONCE, len(examples)))
        vectors = embed(examples.__getitems__(part)[0]).to(device).double()
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            rows = slice(start, start + QUERIES_AT_ONCE)
            between = torch.cdist(queries[rows].to(device).double(), vectors)
            near, order = between.topk(min(count, len(part)), largest=False)
            distances[rows], best = torch.cat([distances[rows], near.cpu()], dim=1).topk(count, largest=False)
            indices[rows] = torch.cat([indices[rows], first + order.cpu()], dim=1).gather(1, best)
    return distances, indices


@register("mode", "neighbours")
@dataclass(frozen=True)
class Neighbours(Mode):
    """The ``count`` training examples nearest to each of num_samples samples: a model that copies shows it here.

    As in the appendix of Ho et al. 2020. space=pixels takes the Euclidean distance of the values, and space=features
    that of features=... The npz holds the samples, the indices (N, count) of the training examples, and the distances.
    Each held-out example has such a distance too, and the table compares the medians: copies would be much nearer.
    """

    count: Size = 5
    space: Literal["pixels", "features"] = "pixels"

    def __call__(self, model: Model) -> Outcome:
        samples, train = torch.cat([x.cpu() for _, x in model.draw()]), model.data.train
        embed = self.embedding(model)
        values, (real, _) = from_model(samples, model.pixels), model.held_out()
        distances, indices = nearest(embed(values), train, embed, self.count, model.device)
        usual, _ = nearest(embed(from_model(real, model.pixels)), train, embed, 1, model.device)
        shown = min(SHOWN, len(samples))
        found = to_model(train.__getitems__(indices[:shown].flatten().tolist())[0]).unflatten(0, (shown, -1))
        picture = model.view.table(
            model.folder / "neighbours.png",
            torch.cat([samples[:shown, None], found], dim=1),
            rows=[""] * shown,
            columns=["sample", *(str(1 + k) for k in range(indices.shape[1]))],
        )
        rows = {
            f"distance to the nearest training example in {self.space}, median": f"{distances[:, 0].median():.4g}",
            "the same of held-out examples": f"{usual.median():.4g}",
        }
        return Outcome({"samples": values, "indices": indices, "distances": distances}, [picture], rows)

    def embedding(self, model: Model) -> Embedding:
        """The function from examples, as the data hold them, to vectors."""
        if self.space == "pixels":
            return lambda values: to_model(values).flatten(1)
        features = model.features.to(model.device)
        return lambda values: torch.cat(
            [extract(features, part.to(model.device)).cpu() for part in values.split(BATCH)]
        )
