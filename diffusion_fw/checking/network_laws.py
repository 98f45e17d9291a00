"""The laws of networks: (x, label, cond) -> F of x's shape, or logits of a classifier, each example by itself."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from diffusion_fw import registry
from diffusion_fw.checking.findings import Row, at_least, at_most, verdict
from diffusion_fw.checking.subject import Check, Subject
from diffusion_fw.networks.network import augment_dim, is_class_conditional, is_classifier, known_labels, uses_label

SHAPES = ((2,), (2, 16), (1, 8, 8), (3, 16, 16), (3, 32, 32), (1, 2, 8, 8))
CLASSES = 3
EQUAL_IN_BF16 = (512.0, 513.0)
"""Two time labels that bf16 rounds to one."""
LARGE = 0.2
"""A deviation of parameters with which the time label changes the output visibly."""
SEEN_IN_BF16 = 2**-8
"""A relative difference that rounding to bf16, with 8 bits, cannot hide."""


def _network(subject: Subject, shape: tuple[int, ...], outputs: int = 1, deviation: float = 0.02) -> nn.Module:
    """The network for examples of a shape, with its parameters moved away from a start at zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network: nn.Module = subject.assemble(shape=shape, num_classes=CLASSES, outputs=outputs)
        for parameter in network.parameters():
            parameter.data += deviation * torch.randn_like(parameter)
    return network.eval()


def _tried(subject: Subject) -> dict[tuple[int, ...], nn.Module | str]:
    """The network for each shape, or why it does not take it: it cannot be built, or called, with such examples.

    The shape is that of the ``subject``, if it is given with one.
    """
    tried: dict[tuple[int, ...], nn.Module | str] = {}
    for shape in [tuple(subject.parameters["shape"])] if "shape" in subject.parameters else SHAPES:
        try:
            network = _network(subject, shape)
            with torch.no_grad():
                network(*inputs_for(shape, network), None)
            tried[shape] = network
        except Exception as error:  # a network may refuse examples by any error
            tried[shape] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return tried


def accepted_shapes(subject: Subject) -> dict[tuple[int, ...], nn.Module]:
    """The network for each of the shapes that it takes."""
    return {shape: found for shape, found in _tried(subject).items() if isinstance(found, nn.Module)}


def inputs_for(shape: tuple[int, ...], network: nn.Module) -> tuple[Tensor, Tensor]:
    """Three examples, and three time labels among those that the network knows."""
    low, high = known_labels(network) or (0.0, 1000.0)
    label = low + (high - low) * torch.tensor([0.01, 0.3, 0.9])
    return torch.randn(3, *shape, generator=torch.Generator().manual_seed(0)), label


def output(subject: Subject) -> Iterator[Row]:
    """(B, *shape) -> (B, outputs shape[0], *shape[1:]), or (B, classes), finite; at least one shape is accepted."""
    tried = _tried(subject)
    learns_variances = "outputs" in registry.entry(subject.group, subject.name).runtime
    for shape, found in tried.items():
        if isinstance(found, str):
            yield Row("output", f"x {shape}", f"skipped, as it takes no such examples: {found:.200}")
            continue
        x, label = inputs_for(shape, found)
        for outputs in (1, 2) if learns_variances else (1,):
            network = _network(subject, shape, outputs)
            wanted = (3, CLASSES) if is_classifier(network) else (3, outputs * shape[0], *shape[1:])
            with torch.no_grad():
                result = network(x, label, None)
            wrong = None
            if tuple(result.shape) != wanted or result.dtype != x.dtype:
                wrong = f"{tuple(result.shape)}, {result.dtype}"
            elif not bool(result.isfinite().all()):
                wrong = "values that are not finite"
            yield verdict("output", f"x {shape}, outputs={outputs}", wrong, f"{wanted}, finite")
    yield at_least("shapes that it accepts", "", sum(isinstance(found, nn.Module) for found in tried.values()), 1)


def batch(subject: Subject) -> Iterator[Row]:
    """An example's output does not depend on the others; it depends on the time label if ``uses_label`` says so."""
    for shape, network in accepted_shapes(subject).items():
        x, label = inputs_for(shape, network)
        with torch.no_grad():
            together = network(x, label, None)
            alone = torch.cat([network(x[i : i + 1], label[i : i + 1], None) for i in range(len(x))])
            shifted = network(x, label.flip(0), None)
        gap = (alone - together).abs().max().item() / together.abs().max().item()
        yield at_most("one example alone - in a batch", f"x {shape}", gap, 1e-4, "of its size")
        found, wanted = (
            "changes the output" if used else "ignored"
            for used in (not torch.equal(shifted[0], together[0]), uses_label(network))
        )
        yield verdict("time label", f"x {shape}", None if found == wanted else found, wanted)


def classes(subject: Subject) -> Iterator[Row]:
    """Declared ``class_conditional``, the class changes the output, and cond=None is num_classes, "no class".

    A parameter of this name is set to true, and then declared by the network.
    """
    choosable = "class_conditional" in registry.entry(subject.group, subject.name).parameters
    changed = {"class_conditional": True} if choosable else {}
    for shape, network in accepted_shapes(
        Subject(subject.group, subject.name, {**subject.parameters, **changed})
    ).items():
        declared = is_class_conditional(network)
        if choosable:
            yield verdict("class_conditional", f"x {shape}", None if declared else "False", "True, as it was built")
        if not declared:
            continue
        x, label = inputs_for(shape, network)
        with torch.no_grad():
            first, last, none = (
                network(x, label, cond) for cond in (torch.zeros(3).long(), torch.full((3,), CLASSES), None)
            )
        ignored = torch.equal(first, last)
        yield verdict("class", f"x {shape}", "ignored" if ignored else None, "changes the output")
        wrong = None if torch.allclose(last, none) else "another output"
        yield verdict("cond=None", f"x {shape}", wrong, f"that of class {CLASSES}, no class")


def augmentation(subject: Subject) -> Iterator[Row]:
    """Declared ``augment_dim``, labels of an augmentation change the output, and zeros are as none."""
    for shape, network in accepted_shapes(subject).items():
        labels = augment_dim(network)
        if not labels:
            continue
        x, label = inputs_for(shape, network)
        with torch.no_grad():
            none = network(x, label, None)
            zeros, ones = (network(x, label, None, augmentation=torch.full((3, labels), value)) for value in (0.0, 1.0))
        yield verdict(
            "augmentation", f"x {shape}", "ignored" if torch.equal(ones, none) else None, "changes the output"
        )
        wrong = None if torch.allclose(zeros, none) else "another output"
        yield verdict("augmentation of zeros", f"x {shape}", wrong, "that without")


def gradients(subject: Subject) -> Iterator[Row]:
    """Every parameter that is trained gets a finite gradient, with classes and "no class" in the batch."""
    for shape, network in accepted_shapes(subject).items():
        x, label = inputs_for(shape, network)
        cond = torch.tensor([0, 1, CLASSES]) if is_class_conditional(network) else None
        network(x, label, cond).square().mean().backward()
        trained = {name: item for name, item in network.named_parameters() if item.requires_grad}
        without = [name for name, item in trained.items() if item.grad is None or not bool(item.grad.isfinite().all())]
        wrong = f"none or not finite for {', '.join(without[:3])}" if without else None
        yield verdict("gradients", f"x {shape}", wrong, "finite for every parameter")


def precision(subject: Subject) -> Iterator[Row]:
    """Labels that differ in float32 but not in bf16 give different outputs under bf16 autocast.

    This can be seen where the outputs without autocast differ by more than the rounding of an output to bf16.
    """
    for shape in accepted_shapes(subject):
        network = _network(subject, shape, deviation=LARGE)
        _, largest = known_labels(network) or (0, math.inf)
        if not uses_label(network) or largest < max(EQUAL_IN_BF16):
            continue
        x = inputs_for(shape, network)[0][:1]
        with torch.no_grad():
            one, other = (network(x, torch.tensor([label]), None) for label in EQUAL_IN_BF16)
            with torch.autocast("cpu", torch.bfloat16):
                outputs = [network(x, torch.tensor([label]), None) for label in EQUAL_IN_BF16]
        visible = (one - other).abs().max() > SEEN_IN_BF16 * one.abs().max()
        rounded = bool(visible) and torch.equal(*outputs)
        yield verdict("time label in float32", f"x {shape}", "rounded to bf16" if rounded else None, "kept")


CHECKS: tuple[Check, ...] = (output, batch, classes, augmentation, gradients, precision)
