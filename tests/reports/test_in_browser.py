"""The page in a real browser: what a reader does with it, what it asks for, and that texts of runs stay texts."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from run_folders import evaluate_run, record, result_line, train_run

from diffusion_fw.reports.page import write_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no browser is installed: apt-get install chromium")

HOSTILE = "<img src=x onerror=\"document.title='injected'\"></script><script>document.title='injected'</script>"
NAME = HOSTILE.replace("/", "")
"""A folder's name has no slash."""
LABEL = "<b>bold</b> &lt; %{y} {{ 7 * 7 }} $x$"


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """Two pages: of six runs and six evaluations, and of runs whose every text tries to be HTML."""
    folder = tmp_path_factory.mktemp("pages")
    models, measured, hostile = folder / "models", folder / "measured", folder / "hostile"
    for job, (schedule, seed) in enumerate((s, seed) for s in ("linear", "cosine", "vp") for seed in (0, 1)):
        distances = [30.0 - job, 20.0 - job, 10.0 - job]
        train_run(models / str(job), {"schedule": {"name": schedule}, "seed": seed}, distances)
    record(models / "6", "train", ["schedule=none", "seed=0"], status="failed", error="ConfigError: no such schedule")
    for job, (sampler, steps) in enumerate((s, n) for s in ("ddim", "ddpm", "heun") for n in (5, 50)):
        evaluate_run(measured / str(job), [result_line(100 / steps + job, sampler, steps)])
    for schedule in (LABEL, HOSTILE):
        place = hostile / f"{NAME}{len(schedule)}"
        config = {"schedule": {"name": schedule}, HOSTILE: HOSTILE, "seed": HOSTILE}
        attempts = [
            {
                "seconds": 1,
                "host": HOSTILE,
                "repositories": [{"folder": HOSTILE, "commit": HOSTILE, "diff": "git-0123456789ab.diff"}],
                "packages": {HOSTILE: f"{HOSTILE}{len(schedule)}"},
                "plugins": {HOSTILE: HOSTILE},
            }
        ]
        train_run(
            place, config, columns={HOSTILE.replace('"', '""'): 1.0}, error=HOSTILE, metric=HOSTILE, attempts=attempts
        )
        evaluate_run(place / "measured", [result_line(1.0, HOSTILE, metric=LABEL, device=HOSTILE, command=HOSTILE)])
        (place / "samples" / "step_0000900.png").write_text(HOSTILE)
    found = {"runs": ([models, measured], folder / "runs.html"), "hostile": ([hostile], folder / "hostile.html")}
    return {name: write_report(*given).path for name, given in found.items()}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield chromium
        chromium.close()


BRIGHTNESS = "getComputedStyle({}).{}.match(/[0-9]+/g).slice(0, 3).reduce((sum, part) => sum + Number(part), 0)"


class Opened:
    """A page, what it has asked for, and what went wrong in it."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.asked: list[str] = []
        self.wrong: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", lambda message: self.wrong.append(message.text))
        self.page.goto(path.as_uri())
        self.address = self.page.url

    def check(self) -> None:
        outside = [url for url in self.asked if url != self.address and not url.startswith(("data:", "blob:"))]
        assert outside == []
        assert self.wrong == []

    def rows(self, column: str | None = None) -> list[str]:
        """The texts of the rows that are shown, or of their cells in a column."""
        return self.page.evaluate(
            """(column) => {
                const heads = [...document.querySelectorAll("#rows thead th")].map((head) => head.textContent);
                const place = heads.indexOf(column);
                return [...document.querySelectorAll("#rows tbody:not([hidden]) tr:not([hidden])")]
                    .map((row) => (column ? row.cells[place] : row).textContent.trim());
            }""",
            column,
        )

    def head(self, column: str) -> Any:
        return self.page.get_by_role("columnheader", name=column, exact=True)

    def lines(self, chart: str) -> int:
        return self.page.locator(f"#{chart} .scatterlayer .trace").count()


RESET = """() => {
    for (const item of document.querySelectorAll("input, select")) {
        const before = [item.value, item.checked].join();
        if (item.type === "checkbox" || item.type === "radio") item.checked = item.defaultChecked;
        else if (item.type === "search") item.value = "";
        else if (item.type === "range") item.value = item.max;
        else item.selectedIndex = 0;
        if ([item.value, item.checked].join() === before) continue;
        for (const kind of ["input", "change"]) item.dispatchEvent(new Event(kind));
    }
    document.querySelectorAll("details[open]").forEach((item) => { item.open = false; });
}"""


@pytest.fixture(scope="module")
def opened(browser, files) -> Iterator[Opened]:
    found = Opened(browser, files["runs"])
    yield found
    found.context.close()


@pytest.fixture
def runs(opened) -> Iterator[Opened]:
    """The page as it was when it was opened, since opening it takes longer than all else."""
    yield opened
    opened.check()
    opened.page.evaluate(RESET)


def test_every_run_has_a_row_and_columns_sort(runs):
    assert len(runs.rows()) == 13
    assert runs.page.locator("#count").text_content() == "13 of 13 rows"
    column = "fid/digits@64/ema, best"
    runs.head(column).get_by_role("button").click()
    values = [text.removesuffix(" best") for text in runs.rows(column)]
    assert values[:6] == ["5", "6", "7", "8", "9", "10"]
    # Rows without a value stay below in both directions.
    assert set(values[6:]) == {""}
    assert runs.head(column).get_attribute("aria-sort") == "ascending"
    runs.head(column).get_by_role("button").press("Enter")
    assert [text.removesuffix(" best") for text in runs.rows(column)][:6] == ["10", "9", "8", "7", "6", "5"]
    assert runs.head(column).get_attribute("aria-sort") == "descending"


def test_the_filter_leaves_rows_and_lines_of_the_charts(runs):
    found = {"cosine": 2, "cosine seed=1": 1, "best<7": 2, "schedule=vp best>=5": 2, "status=failed": 1, "zzz": 0}
    for words, count in found.items():
        runs.page.fill("#filter", words)
        assert len(runs.rows()) == count
        assert runs.page.locator("#count").text_content() == f"{count} of 13 rows"
        drawn = 0 if words == "status=failed" else count
        assert runs.lines("learning-chart") == drawn
        assert runs.page.locator("#learning-chart-empty").is_visible() == (not drawn)


def test_settings_have_means_over_the_seeds_and_bands(runs):
    runs.page.check("input[value=settings]")
    assert "9.5 ± 0.71" in runs.rows("fid/digits@64/ema, best")
    runs.page.fill("#filter", "seeds")
    assert len(runs.rows()) == 3
    assert runs.page.locator("#learning-chart .scatterlayer path.js-fill").count() == 3


def test_columns_are_chosen(runs):
    assert not runs.head("host").is_visible()
    runs.page.get_by_text("Columns", exact=True).click()
    runs.page.get_by_label("host", exact=True).check()
    runs.page.get_by_label("schedule", exact=True).uncheck()
    runs.page.keyboard.press("Escape")
    assert runs.head("host").is_visible()
    assert not runs.head("schedule").is_visible()
    assert "machine" in runs.rows("host")


def test_hovering_over_a_point_says_whose_it_is(runs):
    runs.page.locator("#learning-chart").scroll_into_view_if_needed()
    point = runs.page.locator("#learning-chart .scatterlayer .trace").first.locator(".point").last
    box = point.bounding_box()
    runs.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    label = runs.page.locator("#learning-chart .hoverlayer .hovertext")
    label.wait_for()
    assert re.search(r"models/0: schedule=linear seed=0.*step 300.*10", label.first.text_content())


def test_numbers_of_a_chart_are_a_table(runs):
    runs.page.locator(".numbers[data-chart=noise-chart] summary").click()
    rows = runs.page.locator(".numbers[data-chart=noise-chart] tr")
    # The table is made when it is opened, after the click.
    rows.first.wait_for()
    assert rows.count() == 1 + 6 * 2
    assert "-2" in rows.nth(1).text_content()


def test_samplers_are_lines_over_evaluations_and_seconds(runs):
    assert runs.lines("sampling-chart") == 3
    assert runs.page.locator("#sampling-chart .xtitle").text_content() == "evaluations"
    assert runs.page.locator("#sampling-chart .annotation").text_content() == "floor"
    runs.page.select_option("#sampling-x", "seconds per sample")
    assert runs.page.locator("#sampling-chart .xtitle").text_content() == "seconds per sample"
    assert runs.lines("sampling-chart") == 3


def test_the_front_holds_what_nothing_beats_in_both(runs):
    runs.page.select_option("#pareto-y", label="fid/digits@64/ema")
    runs.page.select_option("#pareto-x", label="evaluations")
    front = runs.page.locator("#front li").all_text_contents()
    assert [re.search(r"ema ([\d.]+) at evaluations (\d+)", item).groups() for item in front] == [
        ("20", "5"),
        ("3", "50"),
    ]


def test_the_slider_shows_samples_of_each_step_side_by_side(runs):
    shown = runs.page.locator("#grids figure:visible img:visible")
    assert shown.count() == 3
    assert runs.page.locator("#grids figure:visible .at").all_text_contents() == ["step 300"] * 3
    slider = runs.page.locator("#grid-step")
    slider.focus()
    slider.press("Home")
    assert runs.page.locator("#grids figure:visible .at").all_text_contents() == ["step 100"] * 3
    assert shown.count() == 3
    runs.page.select_option("#grid-seed", label="all")
    assert shown.count() == 6
    runs.page.fill("#filter", "cosine")
    assert shown.count() == 2
    assert all(
        runs.page.eval_on_selector_all(
            "#grids figure:not([hidden]) img:not([hidden])", "all => all.map((i) => i.naturalWidth)"
        )
    )


def test_trajectories_play(runs):
    runs.page.locator("#trajectories .play").click()
    sync_api.expect(runs.page.locator("#frames .at").first).to_have_text("frame 2 of 5")
    runs.page.locator("#trajectories .play").click()
    assert runs.page.locator("#trajectories .play").get_attribute("aria-pressed") == "false"


def test_the_provenance_of_a_run_opens_from_its_row(runs):
    runs.page.get_by_role("link", name="models/1", exact=True).first.click()
    run = runs.page.locator("#run-1")
    assert run.get_attribute("open") is not None
    text = run.text_content()
    for said in ("python train.py schedule=linear seed=1", "0123456789abcdef", "log_linear", "network.channels=8"):
        assert said in text
    run.get_by_role("link", name="git-0123456789ab.diff").click()
    assert "+new </script>" in runs.page.locator("#diff-1 .plus").text_content()
    assert runs.page.locator("#diff-1").get_attribute("open") is not None
    assert runs.page.locator(".warning").text_content() == "models/6: ConfigError: no such schedule"


def test_everything_is_reached_by_the_keyboard_and_named(runs):
    unnamed = runs.page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, a, img, [role=group], [role=region]")]
            .filter((item) => !(item.textContent.trim() || item.labels?.length || item.ariaLabel || item.alt
                || item.getAttribute("aria-labelledby"))).map((item) => item.outerHTML)"""
    )
    assert unnamed == []
    assert runs.page.evaluate("document.querySelector('a, button, input').textContent") == "To the table"


@pytest.mark.parametrize(("scheme", "other"), [("light", "dark"), ("dark", "light")])
def test_light_and_dark_follow_the_system_and_the_choice(runs, scheme, other):
    paper = BRIGHTNESS.format("document.body", "backgroundColor")
    ink = BRIGHTNESS.format("document.querySelector('#learning-chart .xtitle')", "fill")
    runs.page.emulate_media(color_scheme=scheme)
    assert (runs.page.evaluate(paper) > 600) == (scheme == "light")
    runs.page.select_option("#theme", other)
    assert (runs.page.evaluate(paper) > 600) == (other == "light")
    assert (runs.page.evaluate(ink) < 300) == (other == "light")
    runs.page.emulate_media(color_scheme="light")


OPEN = "document.querySelectorAll('details').forEach((item) => { item.open = true; })"


def test_a_phone_scrolls_only_down(runs):
    runs.page.set_viewport_size({"width": 390, "height": 800})
    runs.page.evaluate(OPEN)
    assert runs.page.evaluate("document.documentElement.scrollWidth") == 390
    runs.page.wait_for_timeout(300)
    assert runs.page.locator("#learning-chart .main-svg").first.bounding_box()["width"] <= 390
    runs.page.set_viewport_size({"width": 1280, "height": 900})


def test_printed_pages_are_light_and_hold_the_charts(runs):
    runs.page.select_option("#theme", "dark")
    assert runs.page.pdf(format="A4")[:4] == b"%PDF"
    # After printing, the page is as before.
    assert runs.page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_texts_of_runs_stay_texts(browser, files):
    opened = Opened(browser, files["hostile"])
    page = opened.page
    assert page.title() == "hostile"
    assert page.locator("img[src=x], script[src], iframe, link, object, embed").count() == 0
    assert page.locator("script").count() == 3
    assert HOSTILE in page.locator("#run-0").text_content()
    assert len(opened.rows()) == 4
    for chart in ("learning-chart", "noise-chart", "sampling-chart", "pareto-chart"):
        assert page.locator(f"#{chart} a, #{chart} [style*='font-weight: bold']").count() == 0
    for option in page.locator("#curve option").all_text_contents():
        page.select_option("#curve", option)
    assert page.locator("#sampling-chart .ytitle").text_content() == LABEL
    page.locator("#learning-chart").scroll_into_view_if_needed()
    box = page.locator("#learning-chart .scatterlayer .trace").first.locator(".point").last.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.locator("#learning-chart .hoverlayer .hovertext").first.wait_for()
    page.fill("#filter", HOSTILE[:12])
    assert "step_0000900.png cannot be shown" in page.locator("#provenance").text_content()
    page.evaluate(OPEN)
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.title() == "hostile"
    opened.check()
    opened.context.close()
