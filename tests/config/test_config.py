"""The command line: every choice composes, and what is wrong is said in one message before anything is made."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from examples import complete, required
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser

from diffusion_fw import registry
from diffusion_fw.composition.experiment import plain
from diffusion_fw.config.application import ask, check_command_line
from diffusion_fw.config.compose import checked, choices, flatten, store_components
from diffusion_fw.config.groups import STACKED, conf_dir, groups
from diffusion_fw.config.origins import origin_of, origins
from diffusion_fw.registry import ConfigError
from diffusion_fw.sweeps.jobs import combinations

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def components():
    store_components()


def train(*arguments):
    return check_command_line("train", list(arguments))


def choose(group, name):
    """The arguments that make one choice of a group, with the values that it has no default for."""
    if name not in registry.names(group):
        return [f"{group}={name}"]
    place = f"{group}.{name}" if group in STACKED else group
    needed = [f"{place}.{key}={value}" for key, value in required(group, name).items()]
    return [f"{group}=[{name}]" if group in STACKED else f"{group}={name}", *needed]


def rounds():
    """Command lines that together make every choice of every group, each one of every group at a time."""
    every = {group: choices(group) for group in groups() if group not in ("experiment", "debug", "sweep", "launcher")}
    for i in range(max(map(len, every.values()))):
        chosen = [choose(group, names[i % len(names)]) for group, names in every.items()]
        yield pytest.param(list(itertools.chain(*chosen)), id=str(i))


@pytest.mark.parametrize("arguments", rounds())
def test_every_choice_of_every_group_composes(arguments):
    (config,) = train(*arguments)
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key in registry.GROUPS and key not in STACKED and value in registry.names(key):
            assert config[key]["name"] == value


@pytest.mark.parametrize(("first", "second"), [("schedule", "parameterization"), ("sampler", "grid")])
def test_every_pair_of_choices_is_a_valid_config(tiny, first, second):
    base = tiny()
    for a, b in itertools.product(registry.names(first), registry.names(second)):
        config = checked("train", {**base, first: complete(first, a), second: complete(second, b)})
        assert (config[first]["name"], config[second]["name"]) == (a, b)


def test_a_preset_is_the_component_that_it_builds_on_with_other_values():
    (config,) = train("trainer=ddp_cpu", "trainer.max_steps=7")
    assert config["trainer"]["name"] == "default"
    assert (config["trainer"]["devices"], config["trainer"]["max_steps"]) == (2, 7)


def test_values_come_as_their_signature_wants_them():
    (config,) = train("optimizer.lr=1", "network.channel_mult=[1,2]", "optimizer.betas=[0,0.5]")
    assert type(config["optimizer"]["lr"]) is float
    assert config["network"]["channel_mult"] == (1, 2)
    assert config["optimizer"]["betas"] == (0.0, 0.5)


@pytest.mark.parametrize("program", ["train", "sample", "evaluate"])
def test_the_defaults_at_the_top_stand_in_the_settings_alone(program):
    given = [] if program == "train" else ["checkpoint=last.ckpt"]
    (config,) = check_command_line(program, [*given, "seed=1"])
    settings = registry.entry("settings", program).parameters
    assert not set(settings) & set(yaml.safe_load((conf_dir() / f"{program}.yaml").read_text()))
    defaults = {key: item.default for key, item in settings.items() if key not in ("checkpoint", "seed")}
    assert {key: config[key] for key in defaults} == defaults
    assert config["seed"] == 1


@pytest.mark.parametrize("group", ["schedule", "sampler", "experiment"])
def test_no_choice_at_all_is_one_message(group):
    with pytest.raises(ConfigError, match=rf"{group}=null: leave it out, or choose from: "):
        check_command_line("train", [f"{group}=null"])


@pytest.mark.parametrize("group", STACKED)
def test_none_is_the_word_for_nothing_of_a_group_of_several(group):
    with pytest.raises(ConfigError, match=rf"^{group}=null: say {group}=none$"):
        check_command_line("train", [f"{group}=null"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trainer": [1]}, r"trainer=\[1\]: must be one of: cpu"),
        ({"guidance": None}, "guidance=None: must be one of: "),
        ({"sampler": {"name": [1]}}, "sampler has no component; choose one of: "),
    ],
)
def test_a_section_of_another_type_is_one_message(tiny, change, message):
    with pytest.raises(ConfigError, match=message):
        checked("train", {**tiny(), **change})


# --------------------------------------------------------------------------------------------------------------------
# Former names
# --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def former(monkeypatch, scratch_registry):
    """schedule=linear was straight with rows for num_steps, guidance=classifier_free cfg with strength for scale."""
    monkeypatch.setattr(ConfigStore.instance(), "repo", copy.deepcopy(ConfigStore.instance().repo))
    changes = {
        "schedule": ("linear", "straight", {"rows": "num_steps"}),
        "guidance": ("classifier_free", "cfg", {"strength": "scale"}),
    }
    for group, (name, old, renamed) in changes.items():
        entry = dataclasses.replace(registry.entry(group, name), formerly=(old,), renamed=renamed)
        registry.components._entries[group][name] = entry
    store_components()


@pytest.mark.parametrize(
    ("arguments", "warnings"),
    [
        (["schedule=straight"], ["schedule=straight is now called schedule=linear"]),
        (["schedule=linear", "schedule.rows=30"], [r"schedule.rows is now called schedule.num_steps"]),
        (["schedule=straight", "schedule.rows=30"], ["=straight is now", "schedule.rows is now"]),
        (["schedule=straight", "schedule.num_steps=30"], ["=straight is now"]),
        (["guidance=[cfg]", "guidance.cfg.strength=3"], ["=cfg is now", "guidance.cfg.strength is now"]),
        (["guidance=[cfg,clip]"], ["=cfg is now"]),
    ],
)
def test_former_names_work_on_the_command_line_with_a_warning(former, arguments, warnings):
    with pytest.warns(FutureWarning) as given:
        (config,) = train(*arguments)
    messages = [str(item.message) for item in given]
    assert all(any(part in message for message in messages) for part in warnings)
    words = " ".join(arguments)
    for old, new in (("straight", "linear"), ("rows", "num_steps"), ("cfg", "classifier_free"), ("strength", "scale")):
        words = words.replace(old, new)
    assert config == train(*words.split())[0]


def test_a_parameter_by_both_its_names_is_refused(former):
    with pytest.raises(ConfigError, match=r"schedule\.rows is the old name of schedule\.num_steps, and both are given"):
        train("schedule=linear", "schedule.rows=30", "schedule.num_steps=40")


def test_former_names_are_not_offered(former):
    assert "straight" not in choices("schedule")
    for argument in ("schedule=strait", "schedule.rowz=3"):
        with pytest.raises(ConfigError) as error:
            train("schedule=linear" if "." in argument else "seed=0", argument)
        assert "straight" not in str(error.value)
        assert "rows" not in str(error.value)


# --------------------------------------------------------------------------------------------------------------------
# Origins
# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "key", "origin"),
    [
        ([], "seed", "signature of TrainSettings"),
        ([], "data.name", "conf/train.yaml"),
        ([], "optimizer.name", "conf/optimizer/adamw_short.yaml"),
        ([], "optimizer.lr", "conf/optimizer/adamw_short.yaml"),
        ([], "optimizer.eps", "signature of adamw"),
        (["seed=3"], "seed", "command line"),
        (["guidance=none"], "guidance", "command line"),
        (["guidance=[]"], "guidance", "command line"),
        (["-m", "schedule=vp,ve"], "schedule.name", "command line"),
        (["experiment=iddpm"], "guidance.clip.name", "conf/experiment/iddpm.yaml"),
        (["experiment=iddpm_vlb"], "schedule.name", "conf/experiment/iddpm.yaml"),
        (["experiment=iddpm_vlb"], "schedule.num_steps", "conf/experiment/iddpm.yaml"),
        (["experiment=iddpm_vlb"], "objective.name", "conf/experiment/iddpm_vlb.yaml"),
        (["experiment=iddpm_vlb"], "network.channels", "signature of UNet"),
        (["experiment=iddpm_vlb", "sampler=ddim"], "sampler.name", "command line"),
        (["experiment=iddpm_vlb", "sampler=ddim"], "sampler.steps", "conf/experiment/iddpm.yaml"),
        (["experiment=iddpm_vlb", "sampler=ddim"], "sampler.eta", "signature of DDIM"),
    ],
)
def test_the_origin_of_a_value_is_where_hydra_takes_it_from(arguments, key, origin):
    assert origin_of(key, origins(ask("train", arguments))) == origin


def chosen_in(content, group):
    """The choices of a group in a file of conf/: of its own group without a key, as a preset does."""
    pairs = [
        pair for item in content["defaults"] for pair in (item.items() if isinstance(item, dict) else [("", item)])
    ]
    found = [choice for key, choice in pairs if key.removeprefix("override").strip(" /") in ("", group)]
    return [name for choice in found for name in (choice if isinstance(choice, list) else [choice])]


@pytest.mark.parametrize("name", [None, *choices("experiment")])
def test_a_file_that_is_an_origin_holds_the_value(name):
    arguments = [f"experiment={name}"] if name else []
    if name and "override /data: image_folder" in (conf_dir() / "experiment" / f"{name}.yaml").read_text():
        arguments.append("data.path=images")
    (config,), known = train(*arguments), origins(ask("train", arguments))
    for key, value in flatten(config):
        origin, group = origin_of(key, known), key.partition(".")[0]
        if not origin.endswith(".yaml"):
            assert origin.startswith("signature of ") or key == "data.path", key
            continue
        content = yaml.safe_load((conf_dir().parent / origin).read_text())
        if key.endswith(".name") or value == {}:
            assert (value or "none") in chosen_in(content, group), key
        else:
            held = {**dict(flatten({group: content})), **dict(flatten(content))}[key]
            assert plain(value) == (float(held) if isinstance(value, float) else held), key


# --------------------------------------------------------------------------------------------------------------------
# What is wrong
# --------------------------------------------------------------------------------------------------------------------


BAD = [
    ("sampler=ddmi", r"sampler=ddmi: .*did you mean 'ddim'.*choose from: .*ddpm"),
    ("schedule=cosin", r"schedule=cosin: .*did you mean 'cosine'"),
    ("experiment=nothing_like_it", r"experiment=nothing_like_it: .*choose from"),
    ("logger=[csv,tensrboard]", r"logger=tensrboard: .*did you mean 'tensorboard'"),
    ("data=unheard_of", r"data=unheard_of: .*choose from: .*digits"),
    ("samplr=ddim", r"samplr: no such key - did you mean 'sampler'"),
    ("sampler.stpes=3", r"sampler\.stpes: no such key - did you mean 'steps'"),
    ("+sampler.stpes=3", r"sampler\.stpes: .*no such key - did you mean 'steps'"),
    ("callbacks.evaluation.evry=3", r"callbacks\.evaluation\.evry: no such key - did you mean 'every'"),
    ("trainer.max_step=3", r"trainer\.max_step: no such key - did you mean 'max_steps'"),
    ("sead=3", r"sead: no such key - did you mean 'seed'"),
    ("sampler.steps=many", r"sampler\.steps='many': must be int in \[1, 1e\+06\]"),
    ("sampler.steps=2.5", r"sampler\.steps=2\.5: must be int"),
    ("sampler.eta=2", r"sampler\.eta=2: must be float in \[0, 1\]"),
    ("optimizer.lr=-1", r"optimizer\.lr=-1: must be float above 0"),
    ("optimizer.betas=[0.9]", r"optimizer\.betas=\[0\.9\]: must be a list of 2"),
    ("trainer.precision=fp8", r"trainer\.precision='fp8': must be one of 32-true, bf16-mixed"),
    ("batch_size=0", r"^batch_size=0: must be int at least 1"),
    ("seed=-1", r"^seed=-1: must be int in \[0, "),
    ("explain=perhaps", r"^explain='perhaps': must be bool"),
    ("~sampler", r"~sampler: .*choose one by sampler="),
    ("~guidance", r"~guidance: .*guidance=none"),
    ("logger.csv=x", r"^logger\.csv=x: logger\.csv is a component; set its parameters by logger\.csv\.PARAMETER"),
    ("sampler.steps=[1", r"^sampler\.steps=\[1: cannot be read as key=value"),
]


@pytest.mark.parametrize(("argument", "message"), BAD, ids=[argument for argument, _ in BAD])
def test_what_is_wrong_is_named_with_what_is_allowed(argument, message):
    with pytest.raises(ConfigError, match=message):
        train(argument)


def test_a_missing_value_is_asked_for_by_its_key():
    with pytest.raises(ConfigError, match=r"^checkpoint is missing: it must be str; give checkpoint="):
        check_command_line("sample", [])


@pytest.mark.parametrize("program", ["sample", "evaluate"])
def test_a_value_inside_a_mapping_that_does_not_fit_is_named_by_its_own_key(program):
    with pytest.raises(ConfigError, match=r"^ema\.std='abc': must be float or null$"):
        check_command_line(program, ["checkpoint=last.ckpt", "ema.rate=0.9", "ema.std=abc"])


def test_every_job_of_a_sweep_is_checked_before_the_first():
    configs = train("-m", "schedule=linear,cosine", "sampler.steps=5,6,7")
    assert [(item["schedule"]["name"], item["sampler"]["steps"]) for item in configs] == [
        (schedule, steps) for schedule in ("linear", "cosine") for steps in (5, 6, 7)
    ]
    with pytest.raises(ConfigError, match="did you mean 'cosine'"):
        train("-m", "schedule=linear,cosin")
    with pytest.raises(ConfigError, match=r"sampler\.steps=0"):
        train("-m", "sampler.steps=5,0")


def test_a_sweep_whose_processes_would_repeat_it_is_refused():
    from diffusion_fw.app.train import check_sweep

    arguments = ["-m", "seed=0,1", "trainer.devices=2", "trainer.strategy=ddp"]
    with pytest.raises(ConfigError, match=r"trainer\.strategy=ddp: .*ddp_fork"):
        check_sweep(ask("train", arguments))
    for allowed in (arguments[2:], ["-m", "seed=0,1"], [*arguments[:3], "trainer.strategy=ddp_fork"]):
        check_sweep(ask("train", allowed))


def run(arguments, folder, **environment):
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    variables.pop("HYDRA_FULL_ERROR", None)
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=variables, capture_output=True, text=True, timeout=120
    )


def test_an_error_is_one_message_and_a_failure_and_leaves_nothing(tmp_path):
    result = run([str(ROOT / "train.py"), "sampler=ddmi"], tmp_path)
    assert result.returncode != 0
    assert result.stderr.startswith("ConfigError: sampler=ddmi")
    assert len(result.stderr.splitlines()) == 1
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_error_found_when_built_leaves_nothing_either(tmp_path):
    result = run([str(ROOT / "train.py"), "batch_size=5000"], tmp_path)
    assert result.returncode != 0
    assert "ConfigError: batch_size=5000 is larger than the 1438 training examples" in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_lists_groups_choices_and_plugins_from_any_folder(tmp_path):
    """The folder of plugins is the one beside train.py, wherever the command is given."""
    result = run([str(ROOT / "train.py"), "--help"], tmp_path)
    assert result.returncode == 0, result.stderr
    for group in ("schedule", "sampler", "data", "logger"):
        for name in registry.names(group):
            assert name in result.stdout
    for plugin in ("log_linear", "gradient_estimation"):
        assert plugin in result.stdout


@pytest.mark.parametrize("group", STACKED)
def test_no_choice_of_a_group_of_several_is_an_empty_one(group):
    for choice in (f"{group}=[]", f"{group}=none"):
        (config,) = check_command_line("train", [choice])
        assert config[group] == {}


# --------------------------------------------------------------------------------------------------------------------
# Text, and errors of other libraries
# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["2024", "007", "1e3", "1_000", "null", "true", "-5", "[a]", "{a: 1}", "nan", "0x1f"])
def test_a_value_where_text_is_wanted_is_the_text_as_typed(text):
    (config,) = train("data=image_folder", f"data.path={text}", "logger=[wandb]", f"logger.wandb.project={text}")
    assert config["data"]["path"] == config["logger"]["wandb"]["project"] == text
    assert check_command_line("sample", [f"checkpoint={text}"])[0]["checkpoint"] == text


def test_text_that_may_be_null_or_stands_in_a_list_is_text_too():
    words = ["logger.wandb.run_name=12", "logger.wandb.entity=null", "logger.wandb.tags=[7, 08,1e3,x]"]
    (config,) = train("logger=[wandb]", *words)
    wandb = config["logger"]["wandb"]
    assert (wandb["run_name"], wandb["entity"], wandb["tags"]) == ("12", None, ["7", "08", "1e3", "x"])
    assert train("-m", "seed=0,1", "init_from=2024")[1]["init_from"] == "2024"


@pytest.mark.parametrize("listed", ["1_000,2_000", "1e3,007", "true,no", "choice(1_000,-5)"])
def test_a_sweep_over_texts_takes_each_as_typed(listed):
    """Hydra itself spells them anew: 1000, 1000.0, True."""
    texts = listed.removeprefix("choice(").removesuffix(")").split(",")
    word = f"data.path={listed}"
    assert [config["data"]["path"] for config in train("-m", "data=image_folder", word)] == texts
    jobs = combinations(OverridesParser.create().parse_overrides([word, "init_from=1_000"]))
    assert jobs == [([f"data.path={text}", "init_from=1_000"], {"data.path": text}) for text in texts]


@pytest.mark.parametrize(
    ("value", "quoted"),
    [("2024", '"2024"'), ("1.5", '"1.5"'), ("yes", '"True"'), ("'2024'", None), ("2024-01-01", None)],
)
def test_a_file_gives_text_that_reads_as_a_number_in_quotes(tmp_path, value, quoted):
    (tmp_path / "experiment").mkdir()
    file = tmp_path / "experiment" / "own.yaml"
    file.write_text(f"# @package _global_\ndefaults:\n  - override /data: image_folder\ndata:\n  path: {value}\n")
    words = [f"--config-dir={tmp_path}", "experiment=own"]
    if quoted is None:
        assert train(*words)[0]["data"]["path"] == value.strip("'")
    else:
        with pytest.raises(ConfigError, match=rf"data\.path=.*: must be str .*quote .*: path: {quoted}$"):
            train(*words)


def test_what_is_no_text_is_not_read_as_text():
    with pytest.raises(ConfigError, match=r"sampler\.steps='many': must be int in \[1, 1e\+06\]"):
        train("sampler.steps=many", "data=image_folder", "data.path=7")


@pytest.mark.parametrize("value", ["a=b", "a,b", "~/x", "/a/{b}", "it's=1", 'a"b=c', "a(1)", "${b"])
def test_a_path_that_needs_quotes_is_shown_with_them(value):
    with pytest.raises(ConfigError) as error:
        train("data=image_folder", f"data.path={value}")
    (word,) = shlex.split(str(error.value).rpartition("quote it: ")[2])
    assert "\n" not in str(error.value)
    if "$" not in value:
        assert train("data=image_folder", word)[0]["data"]["path"] == value


FOREIGN = [
    (["optimizer.lr=${oc.env:NOPE_}"], r"^optimizer\.lr: .*Environment variable 'NOPE_' not found"),
    (["optimizer.lr=${nope:1}"], "Unsupported interpolation type nope"),
    (["optimizer.lr=${optimizer.lr}"], "Recursive interpolation"),
    (["optimizer.lr=${optimizer.eps}", "optimizer.eps=${optimizer.lr}"], "Recursive interpolation"),
    (["optimizer.lr=${nowhere}"], "Interpolation key 'nowhere' not found"),
    (["-m", "schedule=glob(zzz*)"], r"schedule=glob\(zzz\*\) has no values"),
    (["-m", "sampler.steps=range(5,5)"], "has no values"),
    (["schedule=linear,cosine"], "is a sweep: add -m"),
    (["seed=18446744073709551616"], r"must be int in \[0, 1\.84467e\+19\], in 64 bits"),
    (["sampler.steps=1" + "0" * 400], r"sampler\.steps=10+\.\.\.0+: must be int in \[1, 1e\+06\]"),
    (["optimizer.lr=1" + "0" * 400], "must be float above 0"),
    (["data=[]"], "a config has one data"),
    (["+nothing=1"], "nothing: no such key"),
    (["hydra.nothing=1"], r"Could not override 'hydra\.nothing'"),
    (["hydra.searchpath=[nothing://x]"], "No config source registered for schema nothing"),
    (["--config-dir", "/nowhere"], "/nowhere: there is no such folder of configs"),
    (["--nothing"], "--nothing: no such option"),
    (["--experimental-rerun", "config.pickle"], "unpickles a file, which can run code"),
]


@pytest.mark.parametrize(("arguments", "message"), FOREIGN, ids=[" ".join(item)[:40] for item, _ in FOREIGN])
def test_errors_of_the_libraries_below_are_one_line(arguments, message):
    with pytest.raises(ConfigError, match=message) as error:
        train(*arguments)
    assert "\n" not in str(error.value)


def test_a_glob_is_a_sweep_over_the_choices_that_it_matches():
    assert [config["schedule"]["name"] for config in train("-m", "schedule=glob(cosine*)")] == [
        "cosine",
        "cosine_continuous",
    ]


@pytest.mark.parametrize("key", ["hydra.run.dir", "hydra.sweep.dir"])
@pytest.mark.parametrize("folder", ["file/x", "/proc/x", "${oc.env:NOPE_}"])
def test_a_folder_that_cannot_be_made_is_one_message(tmp_path, key, folder):
    (tmp_path / "file").write_text("")
    swept = ["-m", "seed=0,1"] if key == "hydra.sweep.dir" else []
    result = run([str(ROOT / "train.py"), *swept, "data=moons", "network=mlp", f"{key}={folder}"], tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("ConfigError: ")
    assert len(result.stderr.splitlines()) == 1


EARLY = {
    "hydra.output_subdir=x": r"^hydra\.output_subdir=x: ",
    "hydra/job_logging=default": r"^hydra\.job_logging\.handlers\.file has a file: ",
    "+hydra.job_logging.handlers.mine={class: logging.FileHandler, filename: x}": r"^hydra\.job_logging\.handlers\.m",
    "+hydra.hydra_logging.handlers.mine={class: logging.FileHandler, filename: x}": r"^hydra\.hydra_logging\.",
    "+hydra.callbacks.x._target_=hydra.experimental.callbacks.PickleJobInfoCallback": r"^hydra\.callbacks\.x: ",
    "hydra/sweeper=basic": r"^hydra/sweeper=basic: ",
}


@pytest.mark.parametrize("program", ["train", "sample", "evaluate"])
@pytest.mark.parametrize("word", EARLY)
def test_no_setting_has_hydra_write_before_the_folder_is_locked(program, word):
    store_components()
    model = [] if program == "train" else ["checkpoint=x"]
    with pytest.raises(ConfigError, match=f"{EARLY[word]}.*before the run has locked it"):
        check_command_line(program, [*model, word])


@pytest.mark.parametrize(("part", "group"), [("sweeper", "sweep"), ("launcher", "launcher")])
def test_a_sweep_keeps_its_parts(part, group):
    store_components()
    with pytest.raises(ConfigError, match=rf"^hydra\.{part}=null: .*{group}="):
        check_command_line("train", ["-m", "seed=0,1", f"hydra.{part}=null"])


@pytest.mark.parametrize("word", ["hydra/job_logging=disabled", "hydra.job.chdir=true", "-m"])
def test_other_settings_of_hydra_are_taken(word):
    store_components()
    assert check_command_line("train", ["hydra.verbose=true", word])
