"""The groups of components: where the built-in ones are registered, and what the composition root passes to each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Group:
    """An axis of the config: where its built-in components are registered, and what its components may be passed.

    ``runtime`` and ``python`` list every name that a ``Runtime`` parameter of the group may have.
    """

    module: str
    """One module, or a package whose modules are all imported, so that a module dropped into it is found."""
    runtime: Mapping[str, str] = field(default_factory=dict)
    """What the composition root passes to every component that asks for it: names and descriptions."""
    python: Mapping[str, str] = field(default_factory=dict)
    """What only a caller in Python can pass: names and descriptions."""
    several: bool = False
    """Whether several components are chosen at once, in order; each then stands at group.name in the config."""
    own: bool = False
    """Whether a program that uses a checkpoint takes what the model was trained with by group=own."""


OWN = "own"
"""The choice of what the model was trained with."""


FACTS = {
    "shape": "the shape of one example: (C, H, W) or (D,)",
    "num_classes": "the number of classes of the data; 0 without labels",
    "class_names": "the names of the classes",
    "class_counts": "the number of training examples of each class; empty without labels, or where it is not known",
    "data_range": "the smallest and the largest value that the model sees",
    "vectors": "the length of each vector that the model is told, by its name",
    "sequences": "the length and the size of each sequence of embeddings that the model is told",
    "images": "the channels of each image, with the sides of x, that the model is told",
    "pixels": "whether the examples are images of 8-bit pixels",
    "data_diameter": "the largest distance between two training examples, if a parameter needs it measured, or None",
    "data_std": "the standard deviation of the training data, if a parameter needs it measured, or None",
}
"""What a component may ask of the data; a checkpoint holds it."""

SCHEDULE = {"schedule": "the schedule of the model"}
FOLDER = {"folder": "the folder of the run"}

GROUPS: dict[str, Group] = {
    "schedule": Group("diffusion_fw.process.schedules", FACTS),
    "parameterization": Group("diffusion_fw.process.parameterization", SCHEDULE | FACTS),
    "variance": Group("diffusion_fw.process.variance", own=True),
    "network": Group(
        "diffusion_fw.networks", FACTS | {"outputs": "outputs per value: 1, or 2 where the variance is learned"}
    ),
    "objective": Group(
        "diffusion_fw.objectives",
        SCHEDULE | {"weighting": "the weighting of the noise levels", "variance": "the variance of the reverse step"},
    ),
    "weighting": Group("diffusion_fw.objectives.weighting", SCHEDULE | FACTS),
    "time_sampler": Group("diffusion_fw.objectives.time_sampler", SCHEDULE),
    "sampler": Group(
        "diffusion_fw.samplers",
        {"grid": "the grid that places the steps", "variance": "the variance of the reverse step"},
        own=True,
    ),
    "grid": Group("diffusion_fw.samplers.grid", own=True),
    "guidance": Group(
        "diffusion_fw.guidance",
        SCHEDULE
        | FACTS
        | {
            "denoiser": "the denoiser to wrap",
            "num_classes": "the number of classes that the model takes as labels; 0 for a model without labels",
            "told": "what the model is told, by name, and whether training left it out for some examples",
            "seed": "the seed of the run",
            "read_image": "read_image(path, channels) -> the uint8 pixels (C, H, W) of an image file",
            "load": "load(checkpoint, **weights) -> another denoiser, or None in training",
            "load_classifier": "load_classifier(checkpoint, **weights) -> a classifier, or None in training",
        },
        python={
            "weak": "a weaker denoiser of the same data",
            "target": "the schedule to follow",
            "classifier": "classifier(x, level) -> logits (B, K) of the classes",
            "operator": "the linear operator A of the measurement y = A x_0 + noise",
            "measurement": "y",
            "noise": "noise(like) draws standard normal noise like a tensor; a sampler passes its own",
        },
        several=True,
        own=True,
    ),
    "data": Group("diffusion_fw.data", own=True),
    "condition": Group("diffusion_fw.conditions", {"encoder": "the encoder of text"}, several=True, own=True),
    "text_encoder": Group("diffusion_fw.text_encoders", own=True),
    "codec": Group("diffusion_fw.codecs", own=True),
    "augmentation": Group("diffusion_fw.training.augmentation", FACTS, several=True),
    "features": Group("diffusion_fw.metrics.features", {"shape": FACTS["shape"]}, own=True),
    "metric": Group(
        "diffusion_fw.metrics",
        {
            "features": "the feature extractor",
            "reference": "the held-out examples",
            "train": "the training examples without mirror images",
            "test": "the held-out examples as the model sees them: those of the data, or their latents",
            "grid": "the grid that places the steps",
        },
    ),
    "ema": Group("diffusion_fw.training.ema", {"batch_size": "the number of examples of an optimizer step"}),
    "optimizer": Group("diffusion_fw.training.optimizer", {"params": "the trained parameters"}),
    "lr_schedule": Group("diffusion_fw.training.lr_schedule", {"max_steps": "the number of optimizer steps"}),
    "logger": Group(
        "diffusion_fw.training.loggers.builders",
        FOLDER | {"labels": "what the run belongs to: its program, sweep and experiment"},
        several=True,
    ),
    "callbacks": Group(
        "diffusion_fw.training.callbacks.builders",
        FOLDER
        | {
            "history": "the losses and distances of the run so far",
            "loggers": "the loggers",
            "data": "the data as the model sees them: those of the config, or their latents",
            "space": "what the model works on, with the way from there to examples",
            "sampler": "the sampler",
            "wrap": "wrap(denoiser) -> the denoiser in every guidance of the config",
            "conditioner": "what the model is told",
            "metric": "the metric that is tracked",
            "classifier": "the classifier that is trained; None if the network is none",
            "autoencoder": "the section of the config of the autoencoder that is trained; None if the network is none",
            "seed": "the seed of the run",
        },
        several=True,
    ),
    "trainer": Group(
        "diffusion_fw.training.trainer",
        FOLDER | {"loggers": "the loggers", "callbacks": "the callbacks, in order"},
    ),
    "mode": Group("diffusion_fw.modes"),
    "settings": Group("diffusion_fw.config.settings"),
}
