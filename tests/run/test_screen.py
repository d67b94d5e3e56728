"""What a run shows: where keys are from, the untrained policy, the shift of rewards, time, the end; in any window."""

import io
import re
import time

import pytest
from conftest import metrics, records
from rich.console import Console
from rich.panel import Panel

import es_rl
from es_rl.arguments.origins import Origins
from es_rl.rl.config import new_config, parse_train, read_train
from es_rl.run.screen import Screen
from es_rl.run.screen import console as console_module
from es_rl.run.screen.live import ResizableLive
from es_rl.run.screen.told import settings
from es_rl.run.task import Run
from es_rl.run.terms import RETURN, StopRules

TOY = ["env=es_rl/PointMass-v0", "policy=linear", "es.population=4", "workers=0", "eval.episodes=2"]


class Terminal(io.StringIO):
    """A terminal that breaks lines anew when its width changes, as most do."""

    def __init__(self, width):
        super().__init__()
        self.width, self.rows, self.row, self.column = width, [""], 0, 0  # a row that ends in \n ends a line

    def write(self, data):
        for code, text in re.findall(r"(\x1b\[[0-9;?]*[A-Za-z]|[\r\n])|([^\x1b\r\n]+)", data):
            if code.endswith("A"):
                self.row = max(0, self.row - int(code[2:-1] or 1))
            elif code.endswith("2K"):
                self.rows[self.row] = "\n" if self.rows[self.row].endswith("\n") else ""
            elif code == "\r":
                self.column = 0
            elif code == "\n":
                self.rows[self.row] = self.rows[self.row].removesuffix("\n") + "\n"
                self._next_row()
            for letter in text:
                if self.column == self.width:
                    self._next_row()
                row = self.rows[self.row]
                end = "\n" * row.endswith("\n")
                row = row.removesuffix("\n").ljust(self.column)
                self.rows[self.row] = row[: self.column] + letter + row[self.column + 1 :] + end
                self.column += 1

    def _next_row(self):
        self.row, self.column = self.row + 1, 0
        if self.row == len(self.rows):
            self.rows.append("")

    def resize(self, width):
        """Break the lines anew. The cursor stays behind the letter that it is behind."""
        before = "".join(self.rows[: self.row]) + self.rows[self.row][: self.column]
        line_of_cursor, letters = before.count("\n"), len(before.rpartition("\n")[2])
        lines, self.width, self.rows = "".join(self.rows).split("\n"), width, []
        for i, line in enumerate(lines):
            cut = [line[j : j + width] for j in range(0, len(line), width)] or [""]
            if i == line_of_cursor:
                down = max(0, letters - 1) // width
                self.row, self.column = len(self.rows) + down, letters - down * width
            self.rows += [*cut[:-1], cut[-1] + "\n" * (i < len(lines) - 1)]

    def shown(self):
        return [row.strip() for row in self.rows]


@pytest.mark.parametrize("narrow", [70, 40, 23])
def test_a_window_that_gets_narrower_shows_one_whole_panel(narrow, monkeypatch):
    terminal = Terminal(100)
    console = Console(file=terminal, force_terminal=True, width=100, height=60, color_system=None, legacy_windows=False)
    monkeypatch.setattr(console_module, "Console", lambda **_: console)
    monkeypatch.setattr(console_module, "ResizableLive", lambda **keys: ResizableLive(auto_refresh=False, **keys))
    screen = Screen("es_rl: A-v0 → runs/A-v0/a-long-name", StopRules(9, None, None, None), RETURN, shift=5.0)
    record = {"generation": 1, "env_steps": 1000, "seconds": 2.0, "time/steps_per_second": 500.0}
    screen.write(record | {"fitness/mean": 1.0, "fitness/max": 2.0, "members/failed": 0})
    screen.say("a line that stays, and is longer than the narrow window is wide, so that it takes two rows")
    screen._live.refresh()
    for width in (narrow, 100, narrow, narrow + 5):
        terminal.resize(width)
        console.width = width
        screen._live.refresh()
        shown = terminal.shown()
        assert sum(row.startswith("╭") for row in shown) == sum(row.endswith("╯") for row in shown) == 1, shown
        first, last = (next(i for i, row in enumerate(shown) if row.startswith(corner)) for corner in "╭╰")
        assert all(row.startswith("│") and row.endswith("│") for row in shown[first + 1 : last]), shown
        assert {len(row) for row in shown[first : last + 1]} == {width} and not any(shown[last + 1 :]), shown
        assert "".join(shown).count("a line that") == 1
    screen.close()
    screen.say("below")
    shown = terminal.shown()
    assert shown.index("below") > next(i for i, row in enumerate(shown) if row.startswith("╰"))


def test_rich_alone_leaves_torn_borders():
    """Else `ResizableLive` is not needed any more."""
    torn = []
    for kind in (console_module.Live, ResizableLive):
        terminal = Terminal(80)
        console = Console(file=terminal, force_terminal=True, width=80, height=60, legacy_windows=False)
        live = kind(get_renderable=lambda: Panel("x"), console=console, auto_refresh=False)
        live.start(refresh=True)
        terminal.resize(40)
        console.width = 40
        live.refresh()
        torn.append(sum("─" in row for row in terminal.shown()) != 2)
        live.stop()
    assert torn == [True, False]


def test_keys_are_told_with_their_origin_one_a_line(tmp_path):
    (tmp_path / "keys.yaml").write_text("es: {sigma: 0.3}\nseed: 2\nenv_kwargs: {a: 1}\n")
    config, origins = read_train(["env=Hopper-v4", f"config={tmp_path / 'keys.yaml'}", "seed=5", "es.noise=dense"])
    lines = [line.split(maxsplit=2) for line in settings(config, origins, without=("env",))]
    told = {name: (value, origin) for name, value, origin in lines}
    assert told["seed"] == ("5", "command line") and told["es.sigma"] == ("0.3", f"config={tmp_path / 'keys.yaml'}")
    assert told["es.population"] == ("16", "preset of Hopper") and told["policy"] == ("linear", "preset of Hopper")
    assert not {"env", "chunk", "es.noise", "optim.eps"} & told.keys()  # told above, computed, as by default
    assert [name for name in told if name.startswith("env_kwargs")] == ["env_kwargs"]
    config, origins = new_config({"env": "A-v0", "seed": 3}, by="Python")
    assert settings(config, origins, without=("env",)) == ["  seed  3  Python"]
    assert settings(config, Origins()) == []


def test_the_untrained_policy_is_the_first_point_and_no_resume_repeats_it(train, capsys):
    run = train(*TOY, "generations=2", "eval.every=2")
    first, *_ = records(run)
    assert (first["generation"], first["env_steps"]) == (0, 0) and first["eval/return_best"] == first[
        "eval/return_mean"
    ]
    assert 0 < first["time/evaluate"] <= first["seconds"] < records(run)[1]["seconds"]
    train(f"resume={run}", "generations=3")
    assert [line["generation"] for line in records(run)] == [0, 1, 2, 3] and records(run)[0] == first
    assert "generation 0 | eval" in capsys.readouterr().out
    assert len(records(train(*TOY, "generations=1", "eval.every=0", run="none"))) == 1


@pytest.mark.slow
def test_a_run_that_was_killed_around_its_first_evaluation_has_it_once(train, monkeypatch):
    """Before it is saved it is done again, else not."""
    whole = train(*TOY, "generations=1", run="whole")

    def killed(*_, **__):
        raise RuntimeError("killed")

    for name in ("evaluate", "saved"):
        with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
            if name == "evaluate":
                patch.setattr("es_rl.run.checkpointer.Checkpointer.evaluated", killed)
            else:
                patch.setattr("es_rl.run.loop._advance", killed)
            train(*TOY, "generations=1", run=name)
        train(f"resume={name}", "generations=1")
        lines = [{k: v for k, v in line.items() if "eval/" in k} for line in records(whole.parent / name)]
        assert lines == [{k: v for k, v in line.items() if "eval/" in k} for line in records(whole)]


def test_a_shift_of_the_rewards_is_told_beside_the_fitness(train, capsys):
    train(*TOY, "generations=1", "es.reward_shift=5")
    assert re.search(r"fitness -?[\d.,]+ \(return − 5 a step\) \(max", capsys.readouterr().out)


def test_the_end_tells_scores_and_what_to_type_next(train, capsys):
    run = train(*TOY, "generations=2", "eval.every=1")
    said = capsys.readouterr().out.splitlines()
    end = said[said.index("finished: generations=2.") :]
    assert len(end) <= 8 and end[-1].endswith(f"python -m es_rl.train resume={run.name} generations=4")
    best = max(records(run), key=lambda line: line["eval/return_mean"])["generation"]
    assert any(line.startswith("best") and line.endswith(f"checkpoints/{best:08d}") for line in end) or best == 2
    for line in end[-3:]:
        assert line[6:].startswith("python -m es_rl.")


def test_a_rule_is_raised_so_that_a_run_goes_on():
    rules = StopRules(None, None, None, None)
    told = ["generations=7", "env_steps=500", "minutes=0.5", "target_return=-10", "target_return=0", "a callback"]
    raised = ["generations=14", "env_steps=1000", "minutes=1", "target_return=-9", "target_return=0.1", ""]
    assert [rules.raised(RETURN, rule) for rule in told] == raised


def test_quiet_says_only_warnings(capsys, tmp_path):
    keys = {"es": {"population": 4}, "workers": 0, "run": tmp_path / "run"}
    model = es_rl.ES("mlp", "CartPole-v1", **keys).learn(generations=1, progress_bar=False)
    assert capsys.readouterr().out == "" and len(metrics(model.run)) == 1
    model.learn(generations=1)
    assert "note: " not in capsys.readouterr().out  # a run that goes on


def test_steps_of_evaluations_do_not_count():
    config = parse_train(["env=A-v0", "minutes=1"])
    screen = Screen("", Run(config, None, None, "", "", 0, False, RETURN).stop_rules, RETURN, quiet=True)
    screen.evaluating()
    screen.steps(10)
    assert screen._steps_in_generation == 0
    screen.restart("evaluating members")
    screen.steps(3)
    assert screen._steps_in_generation == 3
    screen.evaluating()
    screen.steps(10)
    assert screen._steps_in_generation == 3
    screen.write({"generation": 1, "env_steps": 3})
    assert screen._steps_in_generation == 0


def test_time_goes_on_during_a_generation_and_stops_with_training():
    config = parse_train(["env=A-v0", "minutes=1"])
    screen = Screen("", Run(config, None, None, "", "", 0, False, RETURN).stop_rules, RETURN, quiet=True)
    screen.resume(3, 100, 30.0)
    screen._recorded_at = time.monotonic() - 5
    assert 35 <= screen._elapsed() < 36
    screen.over("")
    assert screen._elapsed() == 30.0
