"""Whether samples are of the class that they were asked to have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from diffusion_fw.metrics.classification_accuracy import hits, trained
from diffusion_fw.metrics.comparison import Beside, Interval, Measure, Numbers, SampleMetric, wilson
from diffusion_fw.metrics.metric import Subject
from diffusion_fw.metrics.sample_set import Part, SampleSet
from diffusion_fw.registry import ConfigError, PositiveInt, register


@register("metric", "class_agreement")
@dataclass(frozen=True)
class ClassAgreement(SampleMetric):
    """The share of samples of which a classifier that was trained on real examples tells the class that was asked for.

    Dhariwal & Nichol 2021, section 4, guide by a classifier; this measures what any guidance does to the class. A model
    with condition=[text] that draws like the held-out examples is asked for their classes by their captions. The floor
    is the share of held-out examples that the classifier tells: the best that a model is expected to reach, though
    guidance can exceed it, since it makes samples that are more typical than real examples. The classifier is that of
    metric=classification_accuracy, trained for ``steps`` steps; the mean of ``seeds`` trainings. The interval is that
    of the samples for these classifiers. Raises ConfigError for a model or data without classes.
    """

    numbers: ClassVar[dict[str, Literal["lower", "higher"]]] = {"class_agreement": "higher"}
    takes: ClassVar[frozenset[Part]] = frozenset({"examples", "labels"})

    seeds: PositiveInt = 3
    steps: PositiveInt = 300

    def against(self, real: SampleSet, device: torch.device) -> Measure:
        taught = self.real("train", device)
        if taught.labels is None:
            raise ConfigError(
                "metric=class_agreement needs data with classes, but data=... has none; choose metric=fid"
            )
        classes = 1 + int(taught.labels.max())
        networks = [trained(taught, classes, self.steps, seed, device) for seed in range(self.seeds)]

        def measure(generated: SampleSet) -> Numbers:
            if generated.labels is None:
                raise ConfigError(
                    "metric=class_agreement needs samples of given classes, but the model takes no labels and no "
                    "condition; choose metric=fid, or train with network.class_conditional=true"
                )
            found = [float(hits(network, generated, device).mean()) for network in networks]
            return {"class_agreement": sum(found) / len(found)}

        return measure

    def floors(self, measure: Measure, device: torch.device) -> Numbers:
        return measure(self.real("test", device))

    def intervals(
        self, measure: Measure, generated: SampleSet, values: Numbers, device: torch.device
    ) -> dict[str, Interval]:
        """Wilson's for the number of samples."""
        value, count = values["class_agreement"], len(generated)
        return {"class_agreement": wilson(value * count, count)}

    def beside(self, measure: Measure, generated: SampleSet, values: Numbers, subject: Subject) -> Beside:
        return Beside({"seeds": self.seeds, "steps": self.steps})
