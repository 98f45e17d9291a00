"""Private interfaces of libraries: each is listed here with the files that use it and the version it was read from."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARIES = {
    *("torch", "lightning", "wandb", "torchmetrics", "optuna", "hydra", "omegaconf", "matplotlib", "PIL", "numpy"),
    *("rich", "tensorboard", "safetensors", "filelock", "jinja2", "diffusers", "huggingface_hub", "mlflow", "tqdm"),
}

IMPORTED = {
    "hydra._internal.core_plugins.file_config_source": "hydra-core 1.3.8",
    "hydra._internal.core_plugins.importlib_resources_config_source": "hydra-core 1.3.8",
    "hydra._internal.sources_registry.SourcesRegistry": "hydra-core 1.3.8",
    "hydra._internal.hydra": "hydra-core 1.3.8",
    "hydra._internal.hydra.Hydra": "hydra-core 1.3.8",
    "hydra._internal.utils": "hydra-core 1.3.8",
    "hydra._internal.utils._run_hydra": "hydra-core 1.3.8",
    "hydra._internal.utils.get_args_parser": "hydra-core 1.3.8",
    "torch._foreach_add": "torch 2.14.1",
    "torch._foreach_copy_": "torch 2.14.1",
    "torch._foreach_lerp_": "torch 2.14.1",
    "torch._foreach_norm": "torch 2.14.1",
    "torch._subclasses.fake_tensor.FakeTensorMode": "torch 2.14.1",
    "torch.nn.modules.dropout._DropoutNd": "torch 2.14.1",
    "torch.utils._python_dispatch.TorchDispatchMode": "torch 2.14.1",
    "torch.utils._pytree.tree_leaves": "torch 2.14.1",
    "torch.utils._pytree.tree_map_only": "torch 2.14.1",
}
"""What is imported or reached from a module, and the version it was read from."""

OF_OBJECTS = {
    "_locked": "wandb 0.31.0, the keys of a config that a sweep has locked",
    "_to_model": "wandb-workspaces 0.4, the settings of a view",
    "_metadata": "torch 2.14.1, of a state dict",
    "_can_stop_early": "lightning 2.6.6, of the loop of training",
    "_first_loop_iter": "lightning 2.6.6, of the connector of loggers",
    "_logger_connector": "lightning 2.6.6, of the trainer",
    "_save_checkpoint": "lightning 2.6.6, of its ModelCheckpoint",
    "_trial_id": "optuna 5.0.0",
    "_return_value": "hydra-core 1.3.8, of a JobReturn",
    "_step_supports_amp_scaling": "torch 2.14.1, of an optimizer",
    "_buffers": "torch 2.14.1, of a module",
    "_parameters": "torch 2.14.1, of a module",
    "_blocks": "efficientnet-lite-pytorch 0.1.0",
    "_bn0": "efficientnet-lite-pytorch 0.1.0",
    "_conv_stem": "efficientnet-lite-pytorch 0.1.0",
}
"""Private attributes of objects of libraries."""

OWN = {"_parts", "_replace", "_exit", "_Unpickler", "_getframe"}
"""Private names of this package, of named tuples and of Python itself."""


def chain(node: ast.Attribute) -> tuple[str, list[str]]:
    """The name where a chain of attributes begins, empty if it is no name, and the attributes."""
    parts, value = [node.attr], node.value
    while isinstance(value, ast.Attribute):
        parts.append(value.attr)
        value = value.value
    return (value.id if isinstance(value, ast.Name) else ""), parts[::-1]


def private(name: str) -> bool:
    return any(part.startswith("_") and not part.startswith("__") for part in name.split("."))


def uses(source: str) -> Iterator[str]:
    """The private names in a file: whole ones of a library's modules, and .attribute of any other object."""
    tree, names = ast.parse(source), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for item in node.names:
                begin = item.name.partition(".")[0]
                names[item.asname or begin] = item.name if item.asname else begin
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {item.asname or item.name: f"{node.module}.{item.name}" for item in node.names}
    whole = {name for name in names.values() if name.partition(".")[0] in LIBRARIES}
    yield from filter(private, whole)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and private(node.attr):
            begin, parts = chain(node)
            of = names.get(begin, "")
            if of in whole:
                yield ".".join([of, *parts])
            elif begin not in ("self", "cls") and not of.startswith("diffusion_fw"):
                yield f".{node.attr}"


def found() -> set[str]:
    files = [*(ROOT / "diffusion_fw").rglob("*.py"), *(ROOT / "hydra_plugins").rglob("*.py")]
    return {name for file in files for name in uses(file.read_text())}


def test_every_private_interface_of_a_library_is_listed_and_every_one_listed_is_used():
    allowed = {*IMPORTED, *(f".{name}" for name in OF_OBJECTS)}
    assert found() - {f".{name}" for name in OWN} == allowed


@pytest.mark.parametrize("name", IMPORTED)
def test_they_are_there(name):
    module, _, attribute = name.rpartition(".")
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        assert hasattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import torch\ntorch._x(1)", {"torch._x"}),
        ("import torch as t\nt.nn._x", {"torch.nn._x"}),
        ("from hydra._internal import utils\nutils.x", {"hydra._internal.utils"}),
        ("def f(x): return x._y", {"._y"}),
        ("class A:\n def f(self): return self._y + A.__name__", set()),
    ],
)
def test_private_names_are_found(source, expected):
    assert set(uses(source)) == expected
