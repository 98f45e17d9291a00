"""The registry: names, signatures as schemas, plugins."""

from __future__ import annotations

import math
import subprocess
import sys
import textwrap
from dataclasses import dataclass, make_dataclass
from typing import Annotated, Any, Literal

import pytest

import diffusion_fw as dfw
from diffusion_fw import registry
from diffusion_fw.registry import (
    AutoStd,
    ConfigError,
    Extended,
    Positive,
    Range,
    RegistrationError,
    Runtime,
    Size,
    convert,
)
from diffusion_fw.registry.signature import misfit


def test_a_registered_class_is_built_with_its_parameters_and_runtime_facts(scratch_registry):
    @dfw.register("schedule", "scratch")
    @dataclass(frozen=True)
    class Scratch:
        num_classes: Runtime[int]
        high: float = 1.0

    built = dfw.build("schedule", "scratch", high=3, num_classes=7)
    assert built == Scratch(num_classes=7, high=3.0)
    assert isinstance(built.high, float)
    assert list(registry.entry("schedule", "scratch").parameters) == ["high"]
    assert list(registry.entry("schedule", "scratch").runtime) == ["num_classes"]


@pytest.mark.parametrize(("given", "meant"), [("ddmi", "ddim"), ("dpdm", "ddpm"), ("DDIM", "ddim")])
def test_an_unknown_name_is_answered_with_the_nearest_one(given, meant):
    if given.islower():
        with pytest.raises(ConfigError, match=f"did you mean '{meant}'"):
            dfw.build("sampler", given)
    else:
        with pytest.raises(ConfigError, match=f"choose from: .*{meant}"):
            dfw.build("sampler", given)


def test_an_unknown_key_is_answered_with_the_nearest_one():
    with pytest.raises(ConfigError, match=r"sampler\.stpes.*did you mean 'steps'"):
        dfw.build("sampler", "ddim", stpes=3)


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("steps", 0, r"\[1, 1e\+06\]"),
        ("steps", 2.5, "int"),
        ("steps", True, "int"),
        ("eta", 1.5, r"\[0, 1\]"),
        ("eta", "x", "float"),
    ],
)
def test_a_value_of_the_wrong_type_or_range_names_the_key_and_what_is_allowed(key, value, allowed):
    with pytest.raises(ConfigError, match=rf"sampler\.{key}=.*{allowed}"):
        dfw.build("sampler", "ddim", **{key: value})


def test_a_missing_value_is_named(scratch_registry):
    @dfw.register("schedule", "needy")
    def needy(path: str) -> str:
        return path

    with pytest.raises(ConfigError, match=r"schedule\.path is missing"):
        dfw.build("schedule", "needy")


@pytest.mark.parametrize("said", ["it fails", "schedule=failing: it fails", "schedule=failing fails"])
def test_a_message_names_the_component_once(scratch_registry, said):
    @dfw.register("schedule", "failing")
    def failing():
        raise ConfigError(said)

    with pytest.raises(ConfigError) as raised:
        dfw.build("schedule", "failing")
    assert str(raised.value).count("schedule=failing") == 1


def test_the_same_name_twice_names_both_sources(scratch_registry):
    @dfw.register("schedule", "twice")
    def first() -> None: ...

    with pytest.raises(RegistrationError, match=r"test_registry\.py:\d+ and .*test_registry\.py:\d+"):

        @dfw.register("schedule", "twice")
        def second() -> None: ...


@pytest.mark.parametrize("annotation", [Any, "Any", object, list, dict, tuple, bytes])
def test_an_annotation_that_cannot_be_checked_is_refused_at_registration(scratch_registry, annotation):
    def factory(high=1): ...

    factory.__annotations__["high"] = annotation
    with pytest.raises(RegistrationError, match="'high' has the annotation"):
        dfw.register("schedule", "unchecked")(factory)


def test_a_default_outside_its_own_range_is_refused_at_registration(scratch_registry):
    def factory(high=9): ...

    factory.__annotations__["high"] = Annotated[int, Range(1, 5)]
    with pytest.raises(RegistrationError, match="default 9"):
        dfw.register("schedule", "outside")(factory)


# --------------------------------------------------------------------------------------------------------------------
# Runtime parameters
# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("group", "name", "message"),
    [
        (
            "network",
            "num_class",
            r"'num_class' - did you mean 'num_classes'\?; what a network can ask for: shape, num_c",
        ),
        ("sampler", "num_classes", r"'num_classes'; what a sampler can ask for: grid, variance$"),
        ("variance", "schedule", r"'schedule'; what a variance can ask for: \(nothing\)$"),
    ],
)
def test_a_runtime_parameter_that_nothing_is_passed_to_is_refused(scratch_registry, group, name, message):
    factory = make_dataclass("Misspelt", [(name, Runtime[int], 0)])
    with pytest.raises(RegistrationError, match=message):
        dfw.register(group, "misspelt")(factory)


def test_a_component_that_needs_what_no_config_gives_is_for_python_alone(scratch_registry):
    @dfw.register("guidance", "needs")
    def needs(denoiser: Runtime[Any], measurement: Runtime[Any]): ...

    @dfw.register("guidance", "takes")
    def takes(denoiser: Runtime[Any], measurement: Runtime[Any] = None): ...

    assert registry.entry("guidance", "needs").python_only
    assert not registry.entry("guidance", "takes").python_only


def test_a_value_that_has_a_fact_measured_names_it(scratch_registry):
    @dfw.register("weighting", "scaled")
    def scaled(scale: Positive | AutoStd = 1.0, data_std: Runtime[float | None] = None): ...

    entry = registry.entry("weighting", "scaled")
    assert entry.measured({"scale": "auto"}) == {"data_std"}
    assert entry.measured({"scale": 2.0}) == entry.measured({}) == set()


def test_a_value_that_has_a_fact_measured_needs_the_parameter_that_it_is_passed_as(scratch_registry):
    with pytest.raises(RegistrationError, match=r"'scale' needs 'data_std: Runtime\[float \| None\]' beside it"):

        @dfw.register("weighting", "unscaled")
        def unscaled(scale: Positive | AutoStd = 1.0): ...


# --------------------------------------------------------------------------------------------------------------------
# Former names
# --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def renamed(scratch_registry):
    """schedule=steep, which was steepest, and its parameter high, which was top."""

    @dfw.register("schedule", "steep", formerly=("steepest",), renamed={"top": "high"})
    @dataclass(frozen=True)
    class Steep:
        high: float = 1.0

    return Steep


def test_former_names_work_with_a_warning(renamed):
    with pytest.warns(FutureWarning, match="schedule=steepest is now called schedule=steep"):
        assert dfw.build("schedule", "steepest", high=2) == renamed(2.0)
    with pytest.warns(FutureWarning, match=r"schedule\.top is now called schedule\.high"):
        assert dfw.build("schedule", "steep", top=2) == renamed(2.0)
    with pytest.raises(ConfigError, match=r"schedule\.top is the old name of schedule\.high, and both are given"):
        dfw.build("schedule", "steep", top=2, high=2)


def test_present_names_do_not_warn(renamed, recwarn):
    dfw.build("schedule", "steep", high=2)
    assert not recwarn.list


def test_former_names_are_not_offered(renamed):
    assert "steepest" not in dfw.names("schedule")
    with pytest.raises(ConfigError, match="choose from") as error:
        dfw.build("schedule", "no_such_name_at_all")
    assert "steepest" not in str(error.value)
    with pytest.raises(ConfigError, match=r"its keys: high$"):
        dfw.build("schedule", "steep", bottom=1)


def test_a_former_name_is_taken(renamed):
    with pytest.raises(RegistrationError, match="schedule=steepest is registered twice"):

        @dfw.register("schedule", "steepest")
        def other() -> None: ...


@pytest.mark.parametrize("wrong", [{"top": "low"}, {"high": "high"}])
def test_a_renamed_parameter_is_one_that_exists_by_its_new_name_alone(scratch_registry, wrong):
    with pytest.raises(RegistrationError, match="must map a name that is no longer a parameter to one that is"):

        @dfw.register("schedule", "steep", renamed=wrong)
        def steep(high: float = 1.0) -> None: ...


# --------------------------------------------------------------------------------------------------------------------
# Values
# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        (float, 1, 1.0),
        (tuple[int, int], [1, 2], (1, 2)),
        (tuple[float, ...], [1, 2, 3], (1.0, 2.0, 3.0)),
        (float | Literal["auto"], "auto", "auto"),
        (float | Literal["auto"], 2, 2.0),
        (Annotated[float, Range(0, math.inf)], math.inf, math.inf),
        (Extended, -math.inf, -math.inf),
        (int | None, None, None),
        (dict[str, float], {"a": 1}, {"a": 1.0}),
    ],
)
def test_values_are_converted_to_their_annotation(annotation, value, expected):
    result = convert(annotation, value)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, True),
        (int, 1.0),
        (bool, 1),
        (str, 3),
        (tuple[int, int], [1, 2, 3]),
        (tuple[int, ...], 5),
        (Literal["a", "b"], "c"),
        (Annotated[float, Range(0, 1, low_open=True)], 0),
        (Annotated[float, Range(0, 1)], float("nan")),
        (Annotated[float, Range(0, math.inf)], float("nan")),
        (Annotated[float, Range(0)], math.inf),
        (Positive | None, math.inf),
        (float, -math.inf),
        (float, math.nan),
        (list[float], [1.0, math.inf]),
        (dict[str, float], {"a": math.nan}),
        (Literal[1, 3], True),
        (Size, 2**31),
    ],
)
def test_values_that_do_not_fit_are_refused(annotation, value):
    with pytest.raises(ValueError):
        convert(annotation, value)


def test_a_misfit_is_found_inside_mappings_at_any_depth():
    assert misfit(dict[str, dict[str, int]], {"a": {"b": 1}, "c": {"d": 2, "e": "f"}}) == (".c.e", "f", int)
    assert misfit(dict[str, int], "f") == ("", "f", dict[str, int])


# --------------------------------------------------------------------------------------------------------------------
# Plugins
# --------------------------------------------------------------------------------------------------------------------


def _python(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    import os

    environment = {**os.environ, **variables}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, env=environment, check=False
    )


PLUGIN = """
from dataclasses import dataclass, make_dataclass
import torch
from diffusion_fw import register
from diffusion_fw.process.schedule import DiscreteSchedule

@register("schedule", "{name}")
@dataclass(frozen=True)
class Mine(DiscreteSchedule):
    '''Mine.'''
    high: float = 10.0
    def log_snrs(self):
        return torch.linspace(self.high, -10, self.num_steps, dtype=torch.float64)
"""


def test_a_plugin_folder_in_the_environment_is_loaded_under_a_stable_module_name(tmp_path):
    (tmp_path / "mine.py").write_text(PLUGIN.format(name="mine"))
    result = _python(
        """
        import diffusion_fw as dfw, pickle
        dfw.load_plugins()
        schedule = dfw.build("schedule", "mine", num_steps=10, high=5)
        print(type(schedule).__module__, pickle.loads(pickle.dumps(schedule)) == schedule)
        """,
        DIFFUSION_FW_PLUGINS=str(tmp_path),
    )
    assert result.stdout.split() == ["diffusion_fw.plugins.mine", "True"], result.stderr


def test_a_child_process_imports_a_plugin_by_its_name_alone(tmp_path):
    (tmp_path / "mine.py").write_text(PLUGIN.format(name="mine"))
    result = _python(
        "import diffusion_fw.plugins.mine as module; print(module.Mine(num_steps=4).table.t.tolist())",
        DIFFUSION_FW_PLUGINS=str(tmp_path),
    )
    assert result.stdout.strip() == "[0.0, 0.25, 0.5, 0.75, 1.0]", result.stderr


def test_a_plugin_that_fails_to_import_names_its_file(tmp_path):
    (tmp_path / "broken.py").write_text("import nothing_of_this_name")
    result = _python("import diffusion_fw as dfw; dfw.load_plugins()", DIFFUSION_FW_PLUGINS=str(tmp_path))
    assert "broken.py could not be imported" in result.stderr


def test_a_plugin_that_takes_a_name_in_use_names_both_sources(tmp_path):
    (tmp_path / "mine.py").write_text(PLUGIN.format(name="linear"))
    result = _python(
        "import diffusion_fw as dfw; dfw.load_plugins(); dfw.names('schedule')", DIFFUSION_FW_PLUGINS=str(tmp_path)
    )
    assert "registered twice" in result.stderr
    assert "mine.py" in result.stderr
    assert "tables.py" in result.stderr


def test_two_plugins_of_one_name_are_refused(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(PLUGIN.format(name="mine"))
    result = _python(f"import diffusion_fw as dfw; dfw.load_plugins({str(tmp_path / 'a')!r}, {str(tmp_path / 'b')!r})")
    assert "two plugins are called 'mine'" in result.stderr


@pytest.mark.parametrize("room", ["samplers.ddim", "guidance", "oracles", "likelihood"])
def test_the_core_brings_in_neither_lightning_nor_hydra_nor_wandb(room):
    result = _python(
        f"""
        import sys, importlib
        import diffusion_fw as dfw
        dfw.names("sampler"), dfw.names("schedule"), dfw.names("guidance")
        importlib.import_module("diffusion_fw.{room}")
        heavy = ["lightning", "hydra", "wandb", "torchmetrics", "matplotlib", "omegaconf"]
        print([name for name in heavy if name in sys.modules])
        """
    )
    assert result.stdout.strip() == "[]", result.stderr


def test_every_component_has_a_summary_and_a_checkable_signature():
    for group in registry.GROUPS:
        for entry in registry.entries(group).values():
            assert entry.summary, f"{group}={entry.name} has no docstring"
            for key, parameter in entry.parameters.items():
                assert registry.describe(parameter.annotation), key
