"""What differs, what came out, and the spread over the seeds."""

from __future__ import annotations

import statistics

import pytest
from run_folders import evaluate_run, result_line, train_run

from diffusion_fw.reports.comparison import compare, differing_keys, spread
from diffusion_fw.reports.page import thinned
from diffusion_fw.reports.pictures import ends_first, evenly
from diffusion_fw.reports.reading import read_runs


def table(comparison, rows):
    titles = [column.title for column in comparison.columns]
    return [dict(zip(titles, (cell.text for cell in row.cells), strict=True)) for row in rows]


def test_keys_of_one_component_alone_do_not_differ():
    linear = {"schedule": "linear", "schedule.beta": "0.1", "lr": "1", "hydra.run.dir": "a"}
    cosine = {"schedule": "cosine", "schedule.s": "0.008", "lr": "2", "hydra.run.dir": "b"}
    assert differing_keys([linear, cosine]) == ["schedule", "lr"]
    assert differing_keys([linear, {**linear, "schedule.beta": "0.2"}]) == ["schedule.beta"]
    assert differing_keys([linear, {key: linear[key] for key in ("schedule", "lr")}]) == ["schedule.beta"]
    assert differing_keys([linear]) == []


def test_the_rows_hold_what_differs_and_what_came_out_and_the_settings_their_spread(tmp_path):
    distances = {("linear", 0): 12.0, ("linear", 1): 16.0, ("cosine", 0): 7.0, ("cosine", 1): 9.0}
    for job, ((schedule, seed), distance) in enumerate(distances.items()):
        config = {"schedule": {"name": schedule}, "seed": seed}
        train_run(tmp_path / str(job), config, (30.0, distance), pictures=False)
    comparison = compare(read_runs([tmp_path]))
    rows = table(comparison, comparison.runs)
    assert [(row["schedule"], row["seed"], row["fid/digits@64/ema, best"]) for row in rows] == [
        ("linear", "0", "12"),
        ("linear", "1", "16"),
        ("cosine", "0", "7"),
        ("cosine", "1", "9"),
    ]
    assert not any("network" in row for row in rows)
    settings = table(comparison, comparison.settings)
    deviation = statistics.stdev([12, 16])
    assert settings[0]["fid/digits@64/ema, best"] == f"14 ± {deviation:.2g}"
    assert [row["seed"] for row in settings] == ["2 seeds", "2 seeds"]
    assert [row.label for row in comparison.settings] == ["schedule=linear", "schedule=cosine"]
    place = [column.title for column in comparison.columns].index("fid/digits@64/ema, best")
    assert [row.cells[place].best for row in comparison.runs] == [False, False, True, False]


def test_evaluations_are_named_after_the_model_that_they_measure(tmp_path):
    for job, schedule in enumerate(("linear", "cosine")):
        train_run(tmp_path / "models" / str(job), {"schedule": {"name": schedule}, "seed": 0}, pictures=False)
        for steps in (5, 10):
            path = tmp_path / "models" / str(job) / "checkpoints" / "best.ckpt"
            line = result_line(20 / steps, steps=steps, checkpoint={"path": str(path)})
            evaluate_run(tmp_path / "evaluations" / f"{job}{steps}", [line])
    runs = read_runs([tmp_path / "models", tmp_path / "evaluations"])
    comparison = compare(runs)
    found = [row["model"] for row in table(comparison, comparison.runs)]
    assert found == ["", "", *["schedule=linear"] * 2, *["schedule=cosine"] * 2]
    # A line of the chart over steps: one model with one sampler.
    assert len(set(comparison.series[2:])) == 2


def test_higher_is_better_where_the_line_says_so(tmp_path):
    for job, value in enumerate((0.5, 0.9)):
        line = result_line(value, metric="precision", better="higher")
        evaluate_run(tmp_path / str(job), [line], seed=job)
    comparison = compare(read_runs([tmp_path]))
    place = [column.title for column in comparison.columns].index("precision")
    assert [row.cells[place].best for row in comparison.runs] == [False, True]


@pytest.mark.parametrize(
    ("values", "count", "text"),
    [([], 3, ""), ([1.5], 1, "1.5"), ([1.0, 3.0], 2, "2 ± 1.4"), ([2.0], 2, "2 (1 of 2)")],
)
def test_the_spread_says_how_many_seeds_have_a_value(values, count, text):
    assert spread(values, count).text == text


def test_a_thinned_curve_keeps_its_peaks_and_its_end():
    points = [(float(x), 1.0) for x in range(10_000)]
    points[4321] = (4321.0, 99.0)
    kept = thinned(points, 100)
    assert len(kept) <= 100
    assert {points[4321], points[-1]} <= set(kept)
    assert kept == sorted(kept)


def test_pictures_are_chosen_from_the_ends_to_the_middle():
    assert ends_first(0) == []
    assert ends_first(1) == [0]
    assert ends_first(5) == [4, 0, 2, 1, 3]
    assert evenly(range(100), 4) == [24, 49, 74, 99]
    assert evenly([1, 2], 4) == [1, 2]
