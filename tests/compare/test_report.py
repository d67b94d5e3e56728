"""The report of a comparison: what the runs say, what is drawn, what is written."""

import base64
import csv
import re

import numpy as np
import pytest
from matplotlib.axes import Axes
from web_page import Page

from es_rl.compare.report import figures, summary, tables
from es_rl.compare.report import page as report
from es_rl.plot import style

LONG = {"es": "es_rl", "ppo_fast": "PPO (long)", "ars": "ARS (long)", "random": "random actions"}


def made_up(seeds=3, against=("ppo_fast",), **failed):
    """Results whose returns are a hundred a contender's rank, and one more for each seed; curves rise evenly."""
    names, made = ("es", *against), []
    for seed in range(seeds):
        for rank, name in enumerate(names):
            level = 100.0 * (len(names) - rank)
            curve = [
                {"seconds": t, "cpu_seconds": 2 * t, "env_steps": 100 * t, "return": (level + seed) * t / 60}
                for t in range(0, 61, 2)
            ]
            run = {"name": name, "seed": seed, "command": f"python -m {name} <{seed}>", "curve": curve}
            outcome = {"return_mean": level + seed, "env_steps": 6000, "seconds": 60.0, "cpu_seconds": 90.0}
            made.append(run | ({"failed": failed[name]} if name in failed else outcome))
    return {
        "env": "Hopper-v4", "minutes": 1.0, "seeds": seeds, "first_seed": 0, "episodes": 20, "date": "2026-01-01",
        "labels": {name: LONG[name] for name in names}, "command": "python -m es_rl.compare",
        "versions": {"numpy": "2"}, "runs": made,
        "machine": {"processor": "x", "processors": 2, "memory_gb": 8.0, "system": "Linux"},
    }  # fmt: skip


def of(results, name):
    return [run for run in results["runs"] if run["name"] == name]


def shown(results):
    return Page(report.page(results, {}, {})).text


def test_a_training_that_other_programs_disturbed_is_marked_from_a_tenth_on():
    results = made_up()
    assert "not measured" in shown(results)
    of(results, "ppo_fast")[1]["others"] = 0.1
    assert "10%" in Page(report.page(results, {}, {})).cells and "other programs took up" not in shown(results)
    of(results, "ppo_fast")[1] |= {"others": 0.234, "repeated": True}
    assert "seed 1: other programs took up to 23% of the processors" in shown(results)
    assert "23%, 1 run again" in Page(report.page(results, {}, {})).cells


def test_what_each_had_and_used_is_told():
    results = made_up()
    for run in of(results, "ppo_fast"):
        run["resources"] = {"environments": 64, "processes": 2, "threads": 1, "steps_per_second": 7.0, "note": "a note"}
        run["calibration"] = [{"threads": 2, "processes": 1, "steps_per_second": [1234.4, 99.0]}]
    of(results, "ppo_fast")[2]["resources"]["environments"] = 16
    cells = Page(report.page(results, {}, {})).cells
    i = cells.index("PPO, fast envsa note")
    assert cells[i + 1 : i + 9] == ["64 or 16", "2", "1", "100", "0.01", "1.0", "0.03", "not measured"]
    assert "PPO, fast envs: 2 threads, 1 processes: 1,234 and 99 steps/s" in shown(results)


def test_a_report_holds_all_that_it_shows():
    results = made_up()
    drawing = figures.Drawing("<svg/>", b"PNG", "a <caption>")
    page = Page(report.page(results, {"returns": drawing, "wall-clock": drawing}, {"es": (3, b"film")}))
    assert [tag for tag, _ in page.sources] == ["img", "img", "video"]
    assert all(source.startswith("data:") for _, source in page.sources)
    assert base64.b64decode(page.sources[0][1].partition(",")[2]) == b"<svg/>"
    assert base64.b64decode(page.sources[-1][1].partition(",")[2]) == b"film"
    assert "es_rl, seed 3" in page.text and "3 seeds" in page.text and "a <caption>" in page.text
    assert "101" in page.text and "python -m es <0>" in page.text
    assert "2 processors (x), 8.0 GB, Linux" in page.text and "numpy 2" in page.text
    assert not re.search(r"https?://|<script|@import|url\(", report.page(results, {}, {}))


def test_the_summary_is_that_of_the_runs():
    found = summary.summary(made_up())
    assert found["es"]["returns"].tolist() == [200.0, 201.0, 202.0] and found["es"]["iqm"] == 201.0
    assert found["es"]["interval"] == (200.0, 202.0) and found["ppo_fast"]["median"] == 101.0
    assert found["es"]["env_steps"] == 6000 and found["es"]["cpu_seconds"] == 90


def test_the_table_has_median_iqm_interval_and_probability_of_improvement():
    results = made_up()
    cells = Page(report.page(results, {}, {})).cells
    assert cells[1:5] == ["200.0, 201.0, 202.0", "201.0", "201.0 [200.0, 202.0]", "–"]
    assert cells[6:10] == ["100.0, 101.0, 102.0", "101.0", "101.0 [100.0, 102.0]", "1.00 [1.00, 1.00]"]
    of(results, "ppo_fast")[0]["return_mean"] = 201.0
    assert Page(report.page(results, {}, {})).cells[9].startswith("0.83 [")  # 1.5 of 9 pairs are lost


def test_two_seeds_have_no_interval_no_band_and_no_probability(monkeypatch):
    drawn = []
    monkeypatch.setattr(Axes, "fill_between", lambda self, *area, **_: drawn.append(area))
    results = made_up(seeds=2)
    cells = Page(report.page(results, {}, {})).cells
    assert cells[1:5] == ["200.0, 201.0", "200.5", "n = 2", "–"]
    assert cells[6:10] == ["100.0, 101.0", "100.5", "n = 2", "n = 2"]
    assert "[" not in "".join(cells)
    assert "es_rl, n = 2" in figures.curves(results, "wall-clock").svg and not drawn
    assert "Fewer than 3 seeds (n = 2) make nothing clear." in shown(results)


def test_a_curve_s_band_is_its_interval(monkeypatch):
    """Of three seeds: from the lowest to the highest one."""
    drawn = []
    monkeypatch.setattr(Axes, "fill_between", lambda self, *area, **_: drawn.append(area))
    results = made_up()
    figures.curves(results, "wall-clock")
    assert len(drawn) == 2
    for (grid, low, high), name in zip(drawn, ("es", "ppo_fast"), strict=True):
        own = [[p["return"] for p in run["curve"]] for run in of(results, name)]
        values = [np.interp(grid, np.arange(0, 61, 2) / 60, curve) for curve in own]
        assert grid[0] == 0.0 and grid[-1] == 1.0
        np.testing.assert_allclose([low, high], [np.min(values, axis=0), np.max(values, axis=0)], atol=1e-9)


def test_the_axis_is_logarithmic_where_budgets_are_far_apart(monkeypatch):
    drawn = []
    monkeypatch.setattr(Axes, "fill_between", lambda self, *area, **_: drawn.append(area))
    results = made_up()
    for run in of(results, "es"):
        for point in run["curve"]:
            point["env_steps"] *= 11
    assert "logarithmic" in figures.curves(results, "env-steps").caption
    assert "logarithmic" not in figures.curves(results, "wall-clock").caption
    grid = drawn[0][0]  # without the point at no steps; even on the axis
    assert grid[0] == pytest.approx(2200e-6) and grid[-1] == pytest.approx(66000e-6)
    np.testing.assert_allclose(np.diff(np.log(grid)), np.log(30) / 99)


def test_a_contender_that_failed_or_was_not_run_is_shown_as_such(tmp_path):
    results = made_up(ppo_fast="it <broke>")
    del of(results, "es")[0]["return_mean"]
    report.write(tmp_path, results)
    text = Page((tmp_path / "report.html").read_text()).text
    assert "failed: it <broke>" in text and "1 not run yet" in text and "PPO (long)" in text
    assert "No return of: PPO, fast envs." in text


@pytest.mark.slow
def test_figures_are_drawn_on_every_axis_and_to_the_same_bytes_again(tmp_path):
    paths = [tmp_path / f"{name}.{kind}" for name in (*summary.COSTS, "returns") for kind in ("svg", "png")]
    report.write(tmp_path, made_up())
    drawn = [path.read_bytes() for path in paths]
    assert all(content.startswith((b"\x89PNG", b"<?xml")) for content in drawn)
    assert b">PPO, fast envs</text>" in drawn[0] and b"prefers-color-scheme: dark" in drawn[0]
    report.write(tmp_path, made_up())
    assert drawn == [path.read_bytes() for path in paths]
    report.write(tmp_path, made_up(es="no", ppo_fast="no"))  # nothing to draw is no error
    assert all(path.read_bytes() != content for path, content in zip(paths, drawn, strict=True))


@pytest.mark.slow
def test_the_numbers_are_tables_too(tmp_path):
    results = made_up(against=("ppo_fast", "random"), random="no")
    results["runs"][0]["resources"] = {"environments": 64}
    report.write(tmp_path, results)
    found = {name: list(csv.DictReader((tmp_path / f"{name}.csv").open())) for name in ("curves", "returns", "summary")}
    assert len(found["curves"]) == 9 * 31
    assert found["curves"][30] == {
        "contender": "es", "seed": "0", "seconds": "60", "cpu_seconds": "120", "env_steps": "6000", "return": "300.0",
    }  # fmt: skip
    first, last = found["returns"][0], found["returns"][-1]
    assert (first["return_mean"], first["environments"], first["threads"], first["failed"]) == ("300.0", "64", "", "")
    assert (last["contender"], last["return_mean"], last["failed"]) == ("random", "", "no")
    assert found["summary"][1] == {
        "contender": "ppo_fast", "label": "PPO, fast envs", "seeds": "3", "median": "201.0", "iqm": "201.0",
        "iqm_low": "200.0", "iqm_high": "202.0", "es_rl_better": "1.0", "es_rl_better_low": "1.0",
        "es_rl_better_high": "1.0", "env_steps": "6000.0", "seconds": "60.0", "cpu_seconds": "90.0",
    }  # fmt: skip
    assert tables.csv_text(["a", "b"], [[float("nan"), None], [0, "x, y"]]) == 'a,b\n,\n0,"x, y"\n'


def test_the_headline_tells_wins_and_losses_alike():
    results = made_up(against=("ppo_fast", "ars", "random"))
    won = "es_rl (median 401.0) wins, ahead of PPO, fast envs (median 301.0)."
    assert summary.headline(results) == f"{won} es_rl beats PPO, fast envs; ARS, sb3-contrib and random."
    for run in of(results, "ppo_fast"):
        run["return_mean"] += 200
    lost = "PPO, fast envs (median 501.0) wins, ahead of es_rl (median 401.0)."
    assert (
        summary.headline(results) == f"{lost} es_rl loses to PPO, fast envs. es_rl beats ARS, sb3-contrib and random."
    )
    of(results, "ppo_fast")[0]["return_mean"] = 399.0
    unclear = "PPO, fast envs (median 501.0) wins, not clearly, ahead of es_rl (median 401.0)."
    text = f"{unclear} es_rl loses to PPO, fast envs (not clearly). es_rl beats ARS, sb3-contrib and random."
    assert summary.headline(results) == text


def test_who_lost_trainings_is_said_to_be_judged_by_the_others():
    results = made_up(seeds=4)
    run = of(results, "ppo_fast")[0]
    run["failed"] = run.pop("return_mean") and "it broke"
    text = "PPO, fast envs is judged by the 3 trainings that did not fail, of 4."
    assert text in summary.headline(results)


def test_a_difference_is_clear_only_in_the_direction_of_the_medians():
    """The medians of six say one thing, their interquartile means another: nothing is clear."""
    low, high = {"median": 5.0, "interval": (8.0, 9.0)}, {"median": 6.0, "interval": (1.0, 2.0)}
    low["returns"], high["returns"] = np.array([7.0, 8, 9]), np.array([1.0, 2, 3])
    assert summary.beats(low, high) == (-1, False) and summary.beats(high, low) == (1, False)
    assert summary.beats(low | {"median": 7.0}, high) == (1, True)


def test_who_is_evaluated_more_often_does_not_reach_a_return_earlier():
    """A curve of 600 points that once jumps up in the middle of a span, and one of the 20 ends of the spans."""
    points = [{"seconds": t, "return": float(t)} for t in range(601)]
    points[31]["return"] = 1000.0
    run = {"seconds": 600.0, "curve": points}
    kept = summary.thinned(run)["curve"]
    assert [point["seconds"] for point in kept] == [*range(0, 601, 30)]
    assert summary.thinned({"curve": points}) == {"curve": points}  # of an older file, which lacks the seconds
    failed = {"seconds": 2.0, "curve": [{"seconds": 1.0, "return": None}, {"seconds": 2.0, "return": 5.0}]}
    assert summary.curve(failed, summary.COSTS["wall-clock"][1])[1].tolist() == [5.0]


@pytest.mark.slow
def test_it_is_said_whose_environments_each_trains_on_and_why_a_video_is_missing():
    results = made_up(against=("ppo_fast", "ars", "random"))
    of(results, "ars")[0]["no_video"] = "no renderer <here>"
    text = Page(report.page(results, figures.draw(results), {})).text
    assert "es_rl and PPO, fast envs train on es_rl's own environments where it has a fast one; ARS," in text
    assert "ARS, sb3-contrib on Gymnasium's, as their libraries do." in text
    assert "No video of ARS, sb3-contrib: no renderer <here>" in text


def test_equal_medians_are_level():
    results = made_up()
    for run in of(results, "ppo_fast"):
        run["return_mean"] += 100
    assert "es_rl is level with PPO, fast envs." in summary.headline(results)


def test_the_time_to_a_return_is_where_the_curve_crosses_it():
    results = made_up(against=("ppo_fast", "random"))
    assert summary.levels(results) == [160.0, 200.0, 260.0]  # of 101 to 301, in steps of 20
    minutes = summary.COSTS["wall-clock"][1]
    reached = summary.times(results, "es", 150.0, minutes)
    np.testing.assert_allclose(reached, [150 / 300, 150 / 301, 150 / 302])
    assert summary.time_text(reached) == "0.498 [0.497, 0.500] (3 of 3)"
    # The best of the other's seeds ends at 202, its median at 201.
    assert summary.time_text(summary.times(results, "ppo_fast", 200.5, minutes)) == "0.998 [0.993, never] (2 of 3)"
    assert summary.time_text(summary.times(results, "ppo_fast", 201.5, minutes)) == "0.998 at the earliest (1 of 3)"
    assert summary.time_text(summary.times(results, "ppo_fast", 250.0, minutes)) == "not reached"
    hours = summary.times(results, "es", 150.0, summary.COSTS["cpu-hours"][1])
    np.testing.assert_allclose(hours, reached / 30)


def test_without_the_random_policy_levels_begin_where_the_lowest_curve_does():
    assert summary.levels(made_up()) == [60.0, 100.0, 160.0]  # of 0 to 201, in steps of 20
    nothing = made_up(es="no", ppo_fast="no")
    assert summary.levels(nothing) == [] and "better than the random policy" in shown(nothing)


def test_results_that_lack_newer_fields_are_shown():
    results = made_up()
    for run in results["runs"]:
        run.pop("cpu_seconds", None)
        for point in run["curve"]:
            del point["cpu_seconds"]
    assert "–" in Page(report.page(results, figures.draw(results), {})).cells


def test_every_contender_has_a_color_that_is_seen_on_both_papers():
    def luminance(color):
        channels = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    assert set(figures.COLORS) == set(figures.DASHES) == set(figures.MARKERS) == set(summary.LABELS)
    assert len(set(figures.COLORS.values())) == len(set(map(str, figures.DASHES.values()))) == len(summary.LABELS)
    for color in figures.COLORS.values():
        for paper in (style.PAPER, style.DARK_PAPER):
            low, high = sorted((luminance(color), luminance(paper)))
            assert (high + 0.05) / (low + 0.05) >= 3, color
