"""The search of `sweep=optuna`: it draws the swept values of each run and looks for the smallest distance."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.utils import JobReturn
from hydra.errors import CompactHydraException
from omegaconf import DictConfig
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from diffusion_fw.config.sweep_overrides import sweep_overrides
from diffusion_fw.pictures.search_trials import trials_picture
from diffusion_fw.registry import nearest
from diffusion_fw.sweeps.folder import sweep_folder
from diffusion_fw.sweeps.jobs import Launch
from diffusion_fw.sweeps.logged import log_sweep
from diffusion_fw.sweeps.tables import print_errors, write_csv
from diffusion_fw.sweeps.trial import PRUNED_AT, PRUNERS, STUDY, storage_url
from diffusion_fw.training.callbacks.health import NumericalError

SAMPLERS: dict[str, Callable[[int, bool], optuna.samplers.BaseSampler]] = {
    "tpe": lambda seed, parallel: optuna.samplers.TPESampler(seed=seed, constant_liar=parallel),
    "random": lambda seed, parallel: optuna.samplers.RandomSampler(seed=seed),
}
"""Tree-structured Parzen estimators (Bergstra et al. 2011), and independent draws."""

MAX_ROWS = 20
OUTCOME, ERROR = "outcome", "error"
INTERRUPTED = "interrupted"


def search(config: DictConfig, arguments: list[str], config_loader: Any, launch: Launch) -> float:
    """Run trials until the study has n_trials of them; returns the smallest distance.

    An existing study in the sweep's folder is continued: its trials count, and interrupted ones are repeated. A run
    that diverges has the distance inf, so that the sampler avoids its region; a run that raises an error has none, and
    the search continues. Raises CompactHydraException for settings that don't work and if no distance is finite.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    settings = config.hydra.sweeper
    for key, allowed in (("sampler", SAMPLERS), ("pruner", PRUNERS)):
        if settings[key] not in allowed:
            close = nearest(settings[key], allowed)
            raise _stop(f"hydra.sweeper.{key}={settings[key]}{close}; choose from: {', '.join(allowed)}")
    for key in ("n_trials", "parallel"):
        if settings[key] < 1:
            raise _stop(f"hydra.sweeper.{key}={settings[key]} must be at least 1")
    overrides = sweep_overrides(config, arguments, config_loader)
    space = {item.get_key_element(): distribution(item) for item in overrides if item.is_sweep_override()}
    fixed = [item.input_line or "" for item in overrides if not item.is_sweep_override()]
    with sweep_folder(config) as folder:
        best = _search(config, space, fixed, folder, launch)
        log_sweep(config, config_loader, fixed, folder, "trials")
        return best


def _search(
    config: DictConfig, space: dict[str, BaseDistribution], fixed: list[str], folder: Path, launch: Launch
) -> float:
    settings = config.hydra.sweeper
    study = optuna.create_study(
        study_name=STUDY, storage=storage_url(config.hydra), direction="minimize", load_if_exists=True
    )
    _check_space(study, space, folder)
    # A sampler started with the same seed again would repeat its first draws.
    seed = settings.seed + len(study.trials)
    study.sampler = SAMPLERS[settings.sampler](seed, settings.parallel > 1)
    repeat_interrupted(study)
    console = Console()
    while (missing := settings.n_trials - len(ended(study))) > 0:
        write_results(study, list(space), folder)
        together = min(missing, settings.parallel, settings.get("max_batch_size") or missing)
        drawn = [study.ask(fixed_distributions=space) for _ in range(together)]
        jobs = [
            [*fixed, *(f"{key}={trial.params[key]}" for key in space), f"hydra.sweeper.trial={trial.number}"]
            for trial in drawn
        ]
        for trial, result in zip(drawn, launch(jobs, drawn[0].number), strict=True):
            close_trial(study, trial, result)
            _print_progress(console, study, trial.number, settings.n_trials)
    write_results(study, list(space), folder)
    print_table(console, study, list(space), fixed, folder)
    best = best_trial(study)
    if best is None:
        raise _stop(f"none of {len(ended(study))} trials ended with a finite distance; the table shows their errors")
    return float(best.value or 0.0)


def _stop(message: str) -> CompactHydraException:
    return CompactHydraException(f"ConfigError: {message}")


def distribution(override: Override) -> BaseDistribution:
    """The distribution that the values of a swept override are drawn from.

    ``interval(a, b)`` is a continuous range, ``int(interval(a, b))`` and ``range(a, b, step)`` are discrete ranges, on
    a logarithmic scale with ``tag(log, ...)``; any other list is a choice.
    """
    value = override.value()
    if isinstance(value, IntervalSweep):
        assert value.start is not None
        assert value.end is not None
        log = "log" in value.tags
        if isinstance(value.start, int) and isinstance(value.end, int):
            return IntDistribution(value.start, value.end, log=log)
        return FloatDistribution(float(value.start), float(value.end), log=log)
    if isinstance(value, RangeSweep):
        numbers = sorted(value.range())
        log = "log" in value.tags
        if all(isinstance(number, int) for number in numbers):
            return IntDistribution(numbers[0], numbers[-1], log=log, step=1 if log else abs(int(value.step)))
        step = None if log else float(abs(value.step))
        return FloatDistribution(float(numbers[0]), float(numbers[-1]), log=log, step=step)
    return CategoricalDistribution(list(override.sweep_string_iterator()))


def _check_space(study: optuna.Study, space: Mapping[str, BaseDistribution], folder: Path) -> None:
    """Refuse to continue a study that drew a key from another distribution."""
    for trial in study.trials:
        for key, drawn in trial.distributions.items():
            try:
                optuna.distributions.check_distribution_compatibility(drawn, space.get(key, drawn))
            except ValueError:
                raise _stop(
                    f"{key}: the study in {folder} drew it from {_described(drawn)}, this search would draw it from "
                    f"{_described(space[key])}; sweep over the same values, or choose another hydra.sweep.dir"
                ) from None


def _described(drawn: BaseDistribution) -> str:
    if isinstance(drawn, CategoricalDistribution):
        return "|".join(map(str, drawn.choices))
    return str(drawn)


def repeat_interrupted(study: optuna.Study) -> None:
    """Close the trials that a killed sweep left open, and queue their values to be run first."""
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        _set(study, trial, OUTCOME, INTERRUPTED)
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)


def ended(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that count: all that ran to their end, whatever the outcome."""
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    return [trial for trial in study.get_trials(states=states) if trial.user_attrs.get(OUTCOME) != INTERRUPTED]


def close_trial(study: optuna.Study, trial: optuna.Trial, result: JobReturn) -> None:
    """Report to the study what the trial's run returned or raised."""
    try:
        distance = float(result.return_value)
    except NumericalError as error:
        trial.set_user_attr(ERROR, str(error))
        distance = math.inf
    except Exception as error:
        trial.set_user_attr(OUTCOME, "failed")
        trial.set_user_attr(ERROR, str(error) or type(error).__name__)
        study.tell(trial.number, state=TrialState.FAIL)
        return
    step = study.trials[trial.number].user_attrs.get(PRUNED_AT)
    if step is not None:
        trial.set_user_attr(OUTCOME, f"{PRUNED_AT} {step}")
        study.tell(trial.number, state=TrialState.PRUNED)
        return
    finite = math.isfinite(distance)
    trial.set_user_attr(OUTCOME, "complete" if finite else "diverged")
    study.tell(trial.number, distance if finite else math.inf)


def _set(study: optuna.Study, trial: FrozenTrial, key: str, value: str) -> None:
    optuna.Trial(study, trial._trial_id).set_user_attr(key, value)


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """The complete trial with the smallest finite distance, if there is one."""
    finite = [trial for trial in study.get_trials(states=(TrialState.COMPLETE,)) if math.isfinite(_distance(trial))]
    return min(finite, key=_distance, default=None)


def _distance(trial: FrozenTrial) -> float:
    """The distance that a trial reached, or NaN."""
    return math.nan if trial.value is None else float(trial.value)


# --------------------------------------------------------------------------------------------------------------------
# Results
# --------------------------------------------------------------------------------------------------------------------


def write_results(study: optuna.Study, keys: Sequence[str], folder: Path) -> None:
    """Write trials.csv and trials.png into the sweep's folder; each is whole at any moment."""
    trials = [trial for trial in study.trials if trial.state.is_finished()]
    rows = (
        [trial.number, _outcome(trial), _distance(trial), *_values(trial, keys), trial.user_attrs.get(ERROR, "")]
        for trial in trials
    )
    write_csv(folder / "trials.csv", [["trial", "outcome", "distance", *keys, ERROR], *rows])
    trials_picture(folder / "trials.png", [(trial.number, _distance(trial), _outcome(trial)) for trial in trials])


def _values(trial: FrozenTrial, keys: Iterable[str]) -> list[Any]:
    return [trial.params.get(key, "") for key in keys]


def _outcome(trial: FrozenTrial) -> str:
    return str(trial.user_attrs.get(OUTCOME, trial.state.name.lower()))


def _print_progress(console: Console, study: optuna.Study, number: int, count: int) -> None:
    trial, best = study.trials[number], best_trial(study)
    reached = "" if math.isnan(_distance(trial)) else f", distance {_distance(trial):.4g}"
    leader = "" if best is None else f"; best: {_distance(best):.4g} (trial {best.number})"
    done = f"{len(ended(study))} of {count} done"
    console.print(f"trial {number}: {_outcome(trial)}{reached}{leader}; {done}", highlight=False)


def print_table(console: Console, study: optuna.Study, keys: Sequence[str], fixed: Sequence[str], folder: Path) -> None:
    """Print the trials, best first, and the overrides that repeat the best one."""
    trials = sorted(
        ended(study),
        key=lambda trial: (math.isnan(_distance(trial)), _outcome(trial) != "complete", _distance(trial), trial.number),
    )
    title = f"{len(trials)} trials" if len(trials) <= MAX_ROWS else f"the best {MAX_ROWS} of {len(trials)} trials"
    table = Table("trial", "distance", "outcome", *keys, title=title)
    for trial in trials[:MAX_ROWS]:
        reached = "" if math.isnan(_distance(trial)) else f"{_distance(trial):.4g}"
        values = map(_short, _values(trial, keys))
        table.add_row(str(trial.number), reached, _outcome(trial), *values)
    console.print(table)
    print_errors(console, "trial", {item.number: item.user_attrs[ERROR] for item in trials if ERROR in item.user_attrs})
    if best := best_trial(study):
        own = [override for override in fixed if not override.startswith(("sweep=", "launcher=", "hydra"))]
        overrides = [*own, *(f"{key}={value}" for key, value in best.params.items())]
        quoted = [f"'{override}'" if set(override) & set("[]{}(), ") else override for override in overrides]
        console.print(f"best: trial {best.number}:  {' '.join(quoted)}", markup=False, highlight=False, soft_wrap=True)
    place = f"[bold]{escape(str(folder))}[/bold]"
    console.print(f"results in {place}: trials.png, trials.csv, study.db", soft_wrap=True)


def _short(value: Any) -> Text:
    return Text(f"{value:.4g}" if isinstance(value, float) else str(value))
