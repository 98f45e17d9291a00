"""The training examples that are nearest to samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from diffusion_fw.data.dataset import from_model, to_model
from diffusion_fw.metrics.feature_statistics import BATCH, extract
from diffusion_fw.metrics.neighbours import Embedding, nearest
from diffusion_fw.modes.mode import SHOWN, Mode, Model, Outcome
from diffusion_fw.registry import Size, register


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
