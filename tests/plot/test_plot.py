"""Curves of runs: the numbers that are drawn, groups and bands, what is written, and what a stranger's run may hold."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import records as records_of
from conftest import refusal
from omegaconf import OmegaConf
from PIL import Image
from web_page import Page

import es_rl
from es_rl.config import leaves
from es_rl.errors import ConfigError
from es_rl.llm.config import LlmConfig
from es_rl.plot import curves, figure, panels, runs
from es_rl.plot.__main__ import main
from es_rl.plot.config import parse_plot
from es_rl.rl.config import Config
from es_rl.text.config import TextConfig

RETURN, SPREAD = "eval/return_mean", "eval/return_std"


def records(values, *, every=100, **more):
    """One record for each value of an evaluation."""
    return [
        {"generation": i + 1, "env_steps": every * (i + 1), "seconds": 6.0 * (i + 1), RETURN: value, **more}
        for i, value in enumerate(values)
    ]


def write(path, rows, tail="", command="python -m es_rl.train", **config):
    """A run directory as a training leaves it, as far as it is read here."""
    path = Path(path)
    path.mkdir(parents=True)
    OmegaConf.save(OmegaConf.create({"env": "X-v0", "seed": 0, "run": str(path)} | config), path / "config.yaml")
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
    (path / "command.txt").write_text(command)
    return path


def panel(drawn, text):
    return next(axes for axes in drawn.axes if axes.get_title("left") == text)


def lines(drawn, text):
    """The points of all lines in a panel."""
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in panel(drawn, text).get_lines()]


def ends(drawn, text):
    """The lowest and highest y of the only band in a panel, by x."""
    (band,) = panel(drawn, text).collections
    found = {}
    for x, y in band.get_paths()[0].vertices:
        low, high = found.get(x, (math.inf, -math.inf))
        found[x] = min(low, y), max(high, y)
    return found


def groups(*paths):
    return runs.grouped([runs.read(path) for path in paths])


def opened(path):
    """A page without handlers of events, which would run code."""
    page = Page(path.read_text(encoding="utf-8"))
    assert page.handlers == []
    return page


def test_the_numbers_drawn_are_those_of_the_file_and_what_is_none_is_left_out():
    rows = records([1.0, 5.0, None, math.nan, 4.0], **{SPREAD: 0.5})
    rows[1]["gradient/agreement"] = 0.25
    rows.insert(2, {"env_steps": 7})  # without a generation
    torn = '[1]\n{"generation": 3, "eval/ret\x00\n' + "[" * 100_000 + '\n{"generation": 6, "env_steps": 600, "eval/re'
    drawn = figure(write("run", rows, tail=torn))
    assert lines(drawn, "return, evaluated") == [([100, 200, 500], [1, 5, 4])]
    assert ends(drawn, "return, evaluated") == {100: (0.5, 1.5), 200: (4.5, 5.5), 500: (3.5, 4.5)}
    assert lines(drawn, "agreement of the population's halves") == [([200], [0.25])]
    assert [axes.get_title("left") for axes in drawn.axes] == [
        "return, evaluated", "agreement of the population's halves"
    ]  # fmt: skip
    assert all(axes.get_xlim() == (0, 510) and axes.get_xlabel() == "environment steps" for axes in drawn.axes)


def test_of_two_records_of_one_generation_the_later_counts():
    rows = records([1.0, 2.0, 3.0])
    assert lines(figure(write("run", [*rows, *records([9.0])])), "return, evaluated")[0][1] == [9, 2, 3]


@pytest.mark.parametrize(
    ("x", "expected", "text"),
    [("steps", [1e6, 2e6], "environment steps, millions"), ("env_steps", [1e6, 2e6], "environment steps, millions"),
     ("generation", [1, 2], "generation"), ("minutes", [0.1, 0.2], "minutes of training"),
     ("processor_hours", [0.5, 1.0], "processor hours of training")],
)  # fmt: skip
def test_each_axis(x, expected, text):
    drawn = figure(records([1.0, 2.0], every=10**6, **{"time/processor_seconds": 1800.0}), x=x)
    np.testing.assert_allclose(lines(drawn, "return, evaluated")[0][0], expected)
    axes = panel(drawn, "return, evaluated")
    assert axes.get_xlabel() == text
    assert axes.xaxis.get_major_formatter()(2e5, None) == ("0.2" if "millions" in text else "200,000")


def test_runs_that_differ_in_their_seed_become_a_median_and_a_band_at_equal_steps():
    values = {0: [0.0, 10.0, 20.0], 1: [2.0, 4.0, 6.0], 2: [1.0, 1.0, 1.0]}
    paths = [
        write(f"seed{seed}", records(v), seed=seed, workers=seed, eval={"every": 1 + seed})
        for seed, v in values.items()
    ]
    (group,) = groups(*paths)
    drawn = panels.overview([group], "steps")
    *each, median = lines(drawn, "return, evaluated")
    assert each == [([100, 200, 300], v) for v in values.values()]
    assert median == ([100, 200, 300], [1, 4, 6])
    assert ends(drawn, "return, evaluated") == {100: (0, 2), 200: (1, 10), 300: (1, 20)}

    longer = write("seed3", records([5.0, 5.0], every=150), seed=3)  # at 150 and 300 steps
    found = curves.band([runs.read(path).curve(RETURN, "env_steps") for path in (paths[0], longer)])
    assert (found.x[0], found.x[-1]) == (150, 300)
    np.testing.assert_allclose(found.high, np.maximum(5, found.x / 10 - 10))
    np.testing.assert_allclose(found.median, (found.x / 10 - 10 + 5) / 2)


def test_curves_meet_on_one_grid_and_are_nowhere_made_longer():
    values = curves.at(np.array([0.0, 1.0, 3.0]), [(np.array([0.0, 2.0]), np.array([0.0, 4.0]))])
    assert values[0, :2].tolist() == [0.0, 2.0] and np.isnan(values[0, 2])


@pytest.mark.parametrize("kind", [Config, TextConfig, LlmConfig])
def test_a_key_on_which_theta_does_not_depend_makes_no_other_line(kind):
    free = {name for name, field in leaves(kind) if field.metadata["resumable"]} - {"corpus", "data"}
    assert {name for name, _ in leaves(kind) if runs.aside(name)} == free | {"seed", "run"}


def test_of_five_seeds_the_band_is_the_middle_half():
    x = np.array([1.0, 2.0])
    found = curves.band([(x, np.full(2, value)) for value in (0.0, 10.0, 20.0, 30.0, 1000.0)])
    assert (found.low.tolist(), found.median.tolist(), found.high.tolist()) == ([10, 10], [20, 20], [30, 30])
    assert curves.band([(x, x)]) is None and curves.band([(x, x), (x[:0], x[:0])]) is None
    assert curves.band([(x, x), (x + 5, x)]) is None  # nowhere have both values


def test_groups_are_named_by_the_keys_in_which_they_differ():
    rows = records([1.0])
    more = {"es": {"sigma": 0.2}, "mlp": {"hidden": [64]}, "env_kwargs": {"gap": 3}}
    paths = [
        write("a0", rows, es={"sigma": 0.1}, mlp={"hidden": [64]}, env_kwargs={}),
        write("a1", rows, es={"sigma": 0.1}, mlp={"hidden": [64]}, env_kwargs={}, seed=1, minutes=3.0, video={"every": 9}),
        write("old", rows, es={"sigma": 0.1}, env_kwargs={}, seed=2),  # of a version that had no mlp.hidden
        write("b", rows, **more),
        write("c", rows, **more | {"es": {"sigma": 0.3}}),
    ]  # fmt: skip
    found = groups(*paths)
    assert [[run.name for run in group.runs] for group in found] == [["a0", "a1", "old"], ["b"], ["c"]]
    assert [group.label for group in found] == [
        "es.sigma=0.1, env_kwargs.gap=–", "es.sigma=0.2, env_kwargs.gap=3", "es.sigma=0.3, env_kwargs.gap=3"
    ]  # fmt: skip
    drawn = panels.overview(found, "steps")
    assert drawn.legends[0].get_texts()[0].get_text() == "es.sigma=0.1, env_kwargs.gap=–, n = 3"
    many = [write(f"m{i}", rows, **{f"k{j}": i * (j != 2 or i) for j in range(5)}) for i in range(2)]
    assert [group.label for group in groups(*many)] == [f"k0={i}, k1={i}, k2={i}, and 2 more" for i in range(2)]
    assert len({f"{panels.style.line_style(i)}" for i in range(49)}) == 49


def test_a_legend_ends_somewhere_and_a_deviation_that_is_no_band_is_a_curve_of_its_own():
    many = [curves.Group(f"g{i}", [curves.RunRecords(f"g{i}", records([1.0 * i], **{SPREAD: 1.0}))]) for i in range(30)]
    drawn = panels.overview(many, "steps")
    assert [text.get_text() for text in drawn.legends[0].get_texts()][-3:-1] == ["g23", "and 6 more"]
    assert len(lines(drawn, "return, evaluated")) == 30 and not panels.other_panels(many)
    seeds = [curves.Group("", [many[0].runs[0], many[1].runs[0]])]
    assert [panel.tag for panel in panels.other_panels(seeds)] == [SPREAD]


def test_labels_are_unequal_where_the_keys_that_they_name_are_equal():
    rows, long = records([1.0]), "x" * 70
    found = groups(write("a", rows, policy=long + "a"), write("b", rows, policy=long + "b"))
    assert [group.label for group in found] == [f"policy={'x' * 52}…", f"policy={'x' * 52}… (2)"]


def test_a_run_is_drawn_into_its_directory_and_several_beside_one_another(capsys, tmp_path):
    write("runs/a", records([1.0, 2.0], **{SPREAD: 0.25}), es={"sigma": 0.1})
    write("runs/deep/b", records([3.0, 4.5]), seed=1, es={"sigma": 0.1}, command="python -m es_rl.train seed=1")
    write("runs/begun", [])
    assert main(["run=runs/a"]) == 0
    with Image.open("runs/a/plot.png") as image:
        assert image.format == "PNG" and image.width > 600
    one = opened(Path("runs/a/plot.html"))
    assert "2.000 ± 0.250" in one.cells and "runs/a" in one.cells and "group" not in one.text
    for given in (
        ["run=runs"],
        ["runs/a", "runs/deep"],
        ["run=runs/a,runs/deep/b"],
        ["run=runs/[ad]*"],
        ["runs/a", "run=runs"],
    ):
        found, left_out = runs.gather(parse_plot(given).run)
        assert sorted(run.name for run in found) == ["runs/a", "runs/deep/b"]
        assert len(left_out) == ("run=runs" in given)
    capsys.readouterr()
    assert main(["run=runs"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("left out: runs/begun/metrics.jsonl: holds no record")
    assert said.endswith("2 runs, 1 group: plot.png and plot.html\n") and Path("plot.png").exists()
    path = Path("plot.html")
    page = opened(path)
    assert "2 runs, which differ only in their seed" in page.text and "python -m es_rl.train seed=1" in page.text
    assert page.cells[-3:] == ["2", "3.250 [2.000, 4.500]", "–"]
    assert all(source.startswith("data:image/svg+xml;base64,") for _, source in page.sources)
    assert not re.search(r"https?://|<script|@import|url\(", path.read_text())


def test_a_page_has_the_settings_that_differ_and_every_other_metric():
    rows = records([1.0, 2.0], **{"eval/return_best": 2.0, "reward/<goes>": 0.5, "eval/sample": "text"})
    write("a", rows, policy="mlp")
    write("b", rows, policy="linear")
    assert main(["run=a,b", "x=generation", "out=p.png"]) == 0
    page = opened(Path("p.html"))
    assert page.cells[-3:] == ["policy", "mlp", "linear"] and "Settings in which they differ" in page.text
    shown = re.findall(r"<figcaption>(.*?)</figcaption>", Path("p.html").read_text())
    assert shown == [RETURN, "eval/return_best", "reward/&lt;goes&gt;"]


EVIL = '<script>alert(1)</script><img src=x onerror="x">$\\frac{$_{\x00\x1b\ud800'


def test_texts_of_a_stranger_stay_texts():
    rows = records([1.0, 2.0], **{f"_{EVIL}": 1.0, "fitness/mean": 10**400, "return/mean": True, "length/mean": 1e200})
    for i, name in enumerate(("_" + EVIL.replace("/", "").replace("\x00", "").replace("\ud800", ""), "b")):
        write(name, rows, env=EVIL.replace("\x00", "").replace("\ud800", ""), **{"_" + EVIL[:20]: i}, command=EVIL[:-1])
    assert main(["run=.", "out=p.png"]) == 0
    page = opened(Path("p.html"))
    assert "script" not in page.tags and page.tags.count("img") == 2 and len(page.sources) == 2
    assert "<script>alert(1)</script>" in page.text and "\x00" not in page.text and "\x1b" not in page.text
    drawn = panels.overview(groups(*runs.Path(".").glob("*/")), "steps")
    assert [axes.get_title("left") for axes in drawn.axes] == ["return, evaluated"]  # the others are no numbers


def test_runs_that_count_tokens_and_what_they_are_compared_with():
    rows = [{"generation": i, "tokens": 10 * i, "eval/bits_per_byte": 8.0 - i, "eval/bits_per_byte_best": 7.0,
             "length/mean": 3.0, "baseline/gzip": 2.5, "fitness/mean": -1.0} for i in (1, 2)]  # fmt: skip
    run = write("text", rows, corpus="c.txt", env="")
    drawn = figure(run)
    assert lines(drawn, "bits per byte, evaluated") == [([10, 20], [7, 6]), ([0, 1], [2.5, 2.5])]
    assert [text.get_text() for text in panel(drawn, "bits per byte, evaluated").texts] == ["gzip"]
    assert panel(drawn, "completion length of members").get_xlabel() == "tokens"
    assert main(["run=text"]) == 0
    page = opened(run / "plot.html")
    assert "c.txt" in page.text and "6.000" in page.cells and "7.000" in page.cells


def test_sigma_is_that_of_each_generation():
    run = write("run", records([1.0, 2.0, 3.0]), es={"sigma": 0.5, "sigma_decay": 0.5})
    assert lines(figure(run), "sigma")[0][1] == [0.5, 0.25, 0.125]
    adamw = write("adamw", records([1.0]), es={"sigma": 0.5}, baseline="adamw")
    assert "sigma" not in runs.read(adamw).tags
    told = records([1.0, 2.0], sigma=0.7)
    assert lines(figure(write("told", told, es={"sigma": 0.5})), "sigma")[0][1] == [0.7, 0.7]


def test_records_in_memory_are_drawn_like_those_of_a_file():
    history = [{"fitness/mean": 1.0, "fitness/std": 0.5}, {"fitness/mean": 2.0, "fitness/std": 0.5}]
    alone = figure(history)
    assert lines(alone, "fitness of members") == [([1, 2], [1, 2])]
    assert ends(alone, "fitness of members") == {1: (0.5, 1.5), 2: (1.5, 2.5)}
    both = figure({"ours": [history, history], "_theirs": history[:1]})
    assert lines(both, "fitness of members")[-1] == ([1], [1])
    assert [text.get_text() for text in both.legends[0].get_texts()][:2] == ["ours, n = 2", " _theirs"]
    for nothing in ([], {"a": []}, {}, [{"note": "x"}]):
        with pytest.raises(ConfigError):
            figure(nothing)
    with pytest.raises(ConfigError, match=r"x=minutes: the run has not recorded it\. Give another one"):
        figure(history, x="minutes")
    with pytest.raises(ConfigError, match=r"x=minute: unknown\. Did you mean minutes"):
        figure(history, x="minute")


def test_what_a_training_writes_is_drawn(train):
    run = train("env=HalfCheetah-v4", "es.segment=4", "credit.simulations=8", "generations=1", "es.sigma=0.02")
    drawn, (first, row) = figure(run), records_of(run)
    assert RETURN in first and first["env_steps"] == 0
    for text, tag in (
        ("return, evaluated", RETURN), ("fitness of members", "fitness/mean"),
        ("explained variance of the critic", "critic/explained_variance"), ("noise on outputs", "explore/std"),
        ("environment steps per second", "time/steps_per_second"),
    ):  # fmt: skip
        known = [line for line in records_of(run) if tag in line]
        assert lines(drawn, text) == [([line["env_steps"] for line in known], [line[tag] for line in known])], text
    assert lines(drawn, "sigma") == [([row["env_steps"]], [0.02])]
    trainer = es_rl.Trainer(
        __import__("torch").nn.Linear(2, 1), lambda m: -float(m.weight.square().sum()), population=4
    )
    trainer.train(2)
    drawn = figure(trainer.history)
    assert lines(drawn, "fitness of members")[0][1] == [r["fitness/mean"] for r in trainer.history]
    assert panel(drawn, "seconds of a generation")


def test_bad_input_is_told_in_one_line(tmp_path):
    write("run", records([1.0]))
    write("text", [{"generation": 1, "tokens": 10, "fitness/mean": 1.0}], corpus="c.txt")
    write("empty", [], tail='{"generation"')
    write("begun", []).joinpath("metrics.jsonl").unlink()
    for name in ("folder", "pipe", "dir.html"):
        Path(name).mkdir()
    Path("pipe/config.yaml").write_text("env: X-v0\n")
    __import__("os").mkfifo("pipe/metrics.jsonl")
    Path("file").write_text("x")
    for code, said, *keys in (
        (2, "run is missing"), (2, "run is missing", "run="), (2, "x=hours: must be one of steps,", "run=run", "x=hours"),
        (2, "smooth: unknown key", "run=run", "smooth=3"), (2, "out=a.jpg: must end in .png or .html", "run=run", "out=a.jpg"),
        (2, "out=dir.html: is not a file", "run=run", "out=dir.png"),
        (2, "x=tokens: run has not recorded it. Give another one, such as x=env_steps", "run=run", "x=tokens"),
        (2, "x=processor_hours: run has not recorded it", "run=run", "x=processor_hours"),
        (2, "the runs count env_steps and tokens. Give x=minutes", "run=run,text"),
        (2, "none: not of the form key=value. Write run=none", "none"), (4, "none: no such run directory", "run=run,none"),
        (4, "no*: no such run directory", "run=no*"), (4, "folder: neither a run directory", "folder"),
        (4, "file: neither a run directory", "run=file"), (4, "xxx: no such run directory", f"run={'x' * 300}"),
        (4, "begun: has no metrics.jsonl: no generation has ended yet", "begun"),
        (4, "empty/metrics.jsonl: holds no record of a generation", "run=empty"),
        (4, "pipe/metrics.jsonl: cannot be read (not a file)", "pipe"),
        (6, "file: File exists. Choose another place with out=", "run=run", "out=file/p.png"),
    ):  # fmt: skip
        found, text = refusal(main, *keys)
        assert found == code and said in text and "\n" not in text, text
    (tmp_path / "precious").write_text("mine")
    Path("run/plot.png").symlink_to(tmp_path / "precious")
    code, text = refusal(main, "run=run")
    assert code == 4 and "run/plot.png: is a link to" in text and (tmp_path / "precious").read_text() == "mine"
    assert not Path("plot.png").exists() and not Path("run/plot.html").exists()
    Path("run/config.yaml").write_text("env: [")
    assert refusal(main, "run=run")[0] == 4


def test_help_names_every_key(capsys):
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"  {name}" in said for name in ("run", "out", "x")) and "processor_hours" in said
