"""The keys at the top of each program's config, with their defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from diffusion_fw.registry import Fraction, NonNegativeInt, PositiveInt, Seed, register

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
"""What a network computes in, by Lightning's names."""

Compile = bool | Literal["reduce-overhead", "max-autotune"]
"""Whether torch.compile runs on a network, and in which of its modes."""


@register("settings", "train")
@dataclass(frozen=True)
class TrainSettings:
    """batch_size counts the examples of one optimizer step, over all processes and accumulated parts.

    resume continues a run (its folder, or a checkpoint in it). init_from starts a new run from the averaged weights of
    another, or from its raw ones. compile runs torch.compile on the network and its first average: true, or a mode of
    it, of which reduce-overhead records CUDA graphs and max-autotune also tries kernels. explain prints what would run.
    picture_formats says how curves are written besides PNG, which is always there.
    """

    seed: Seed = 0
    batch_size: PositiveInt = 128
    num_workers: NonNegativeInt = 0
    label_dropout: Fraction = 0.1
    explain: bool = False
    compile: Compile = False
    picture_formats: list[Literal["png", "svg", "pdf"]] = field(default_factory=lambda: ["png"])
    resume: str | None = None
    init_from: str | None = None
    init_raw_weights: bool = False


@register("settings", "sample")
@dataclass(frozen=True)
class SampleSettings:
    """What to draw from a checkpoint, with its first averaged weights unless ema or raw_weights name others.

    checkpoint may be the folder of a run, for its newest one. ema.rate or ema.std is the length of an average that the
    checkpoint holds; after training with ema=post_hoc, ema.std may have any value. class=3 or class=[0,1,2] gives the
    samples these classes in turn, by number or by name; without, classes are as frequent as in the training data. What
    a model with condition=[...] is told otherwise: prompt="a text" or [one,another], image=FILE and mask=FILE, and
    vector=[0.5,-1]; without, it is told what held-out examples are told.
    provenance=false leaves out of the files what made them, which python -m diffusion_fw.provenance reads. precision is
    that of the network alone, and compile runs torch.compile on it. explain prints the config with the model's own
    parts, and draws nothing.
    """

    checkpoint: str
    num_samples: PositiveInt = 64
    class_: NonNegativeInt | str | list[NonNegativeInt | str] | None = None
    prompt: str | list[str] | None = None
    image: str | list[str] | None = None
    mask: str | None = None
    vector: list[float] | None = None
    seed: Seed = 0
    batch_size: PositiveInt | Literal["auto"] = 256
    raw_weights: bool = False
    ema: dict[str, float | None] = field(default_factory=lambda: {"rate": None, "std": None})
    device: str = "auto"
    precision: Precision = "32-true"
    compile: Compile = False
    npz: bool = False
    provenance: bool = True
    explain: bool = False


@register("settings", "evaluate")
@dataclass(frozen=True)
class EvaluateSettings:
    """Which checkpoint to measure, with the weights that sample.py would use, or which samples.

    Sampler, grid, guidance, variance, data and features are those of the training unless others are chosen; the metrics
    with their numbers of samples are this program's. metric=[fid,kid] measures several on the same samples, and
    metric.num_samples=N sets the key of all that have it, metric.fid.num_samples=N that of one. The table and
    evaluation.json state them. data.path, data.root, ... say where the data of the training are now, if they have
    moved.

    samples=A reference=B compares a folder, zip or npz file of images with another, without a checkpoint; data=NAME may
    stand for the reference, and a reference for the data of a checkpoint. protocol=[adm,edm,clean] measures the same
    samples under the rules of several published evaluators, and ladder=true known corruptions of real examples. A line
    for each number is appended to results.jsonl in the folder ``results`` (null: nowhere). precision is that of the
    network that draws, never that of features, and compile runs torch.compile on it. explain prints the config, and
    measures nothing.
    """

    checkpoint: str | None = None
    samples: str | None = None
    reference: str | None = None
    results: str | None = "results"
    protocol: list[Literal["adm", "edm", "clean"]] = field(default_factory=list)
    ladder: bool = False
    seed: Seed = 0
    batch_size: PositiveInt | Literal["auto"] = 256
    raw_weights: bool = False
    ema: dict[str, float | None] = field(default_factory=lambda: {"rate": None, "std": None})
    device: str = "auto"
    precision: Precision = "32-true"
    compile: Compile = False
    explain: bool = False
