"""Several tasks' comparisons together: what enters, on which scale, who wins, what is written."""

import csv
import json

import numpy as np
import pytest
from test_report import Page, made_up, of

from es_rl.compare import suite
from es_rl.compare.report import suite_page
from es_rl.errors import ConfigError


def task(env, against=("ppo_fast", "random"), **returns):
    """A comparison with these returns; the others as they are made up: the earlier, the better."""
    results = made_up(against=against) | {"env": env}
    for name, values in returns.items():
        for run, value in zip(of(results, name), values, strict=True):
            run["return_mean"] = value
    return results


def test_scores_are_on_the_scale_from_the_random_policy_to_the_highest_median():
    found = suite.gather([task("A-v0", es=[0.0, 10, 20], ppo_fast=[40.0, 50, 60], random=[-30.0, -10, -20])])
    (one,) = found.entered
    assert (one.low, one.high) == (-20.0, 50.0)
    np.testing.assert_allclose(one.scores("es"), [20 / 70, 30 / 70, 40 / 70])
    assert found.aggregates["ppo_fast"].iqm == pytest.approx(1.0)  # of three nothing is left out
    assert found.wins["ppo_fast"] == ([], ["A-v0"], []) and found.wins["random"] == (["A-v0"], [], [])


def test_the_mean_pools_the_tasks_and_its_interval_keeps_them_apart():
    """Without spread within a task there is none over the tasks, however different they are."""
    first = task("A-v0", es=[1.0] * 3, ppo_fast=[2.0] * 3, random=[0.0] * 3)
    second = task("B-v0", es=[2.0] * 3, ppo_fast=[2.0] * 3, random=[0.0] * 3)
    found = suite.gather([first, second])
    assert found.compared == ["es", "ppo_fast"]
    # Scores 0.5, 0.5, 0.5, 1, 1, 1: one of each end is left out.
    assert found.aggregates["es"].iqm == 0.75 and found.aggregates["es"].interval == (0.75, 0.75)
    shares = np.interp([0.25, 0.75, 1.05], found.taus, found.aggregates["es"].profile)
    np.testing.assert_allclose(shares, [1.0, 0.5, 0.0])
    assert found.wins["ppo_fast"] == ([], ["A-v0"], ["B-v0"])


def test_only_tasks_that_all_compared_contenders_ran_enter_and_the_rest_is_named():
    every = [
        task("A-v0"), task("B-v0", against=("ppo_fast", "ars", "random")), task("C-v0", against=("random",)),
        task("D-v0", against=("ppo_fast",)),
    ]  # fmt: skip
    found = suite.gather(every)
    assert found.compared == ["es", "ppo_fast"] and [t.env for t in found.entered] == ["A-v0", "B-v0"]
    assert found.left_out == {"C-v0": "no return of PPO, fast envs", "D-v0": "no return of random"}
    text = Page(suite_page.page(found, {})).text
    assert "Left out: C-v0 (no return of PPO, fast envs); D-v0 (no return of random)." in text
    assert "Not compared here: ARS, sb3-contrib." in text
    assert [t.env for t in suite.gather(every, ["es", "ars"]).entered] == ["B-v0"]


def test_a_task_on_which_nobody_is_better_than_chance_has_no_scale():
    flat = task("A-v0", es=[0.0] * 3, ppo_fast=[0.0] * 3, random=[0.0] * 3)
    found = suite.gather([flat])
    assert found.left_out == {"A-v0": "no contender is better than the random policy"} and not found.aggregates
    assert "No task was run by all that are compared." in Page(suite_page.page(found, suite_page.draw(found))).text


def test_two_seeds_give_no_interval():
    few = made_up(seeds=2, against=("ppo_fast", "random")) | {"env": "B-v0"}
    found = suite.gather([task("A-v0"), few])
    assert np.isnan(found.aggregates["es"].interval).all() and np.isnan(found.aggregates["es"].band).all()
    page = Page(suite_page.page(found, {}))
    assert any(cell.endswith("(n = 2)") for cell in page.cells) and "300.5*" in page.cells
    assert "[" not in "".join(page.cells)


def test_wins_and_losses_are_told_alike():
    won, lost = task("A-v0"), task("B-v0", ppo_fast=[900.0] * 3)
    text = Page(suite_page.page(suite.gather([won, lost]), {})).text
    assert "Against PPO, fast envs, es_rl wins 1 of 2 tasks and loses 1." in text
    assert "Over 2 tasks, PPO, fast envs (" in text


@pytest.mark.slow
def test_the_verb_writes_a_page_figures_and_tables_to_the_same_bytes_again(tmp_path, capsys):
    for results in (task("A-v0"), task("B-v0", ppo_fast=[900.0] * 3)):
        (tmp_path / results["env"]).mkdir()
        (tmp_path / results["env"] / "results.json").write_text(json.dumps(results))
    folders = [str(tmp_path / env) for env in ("A-v0", "B-v0")]
    assert suite.main([*folders, f"out={tmp_path / 'out'}"]) == 0
    assert "suite.html" in capsys.readouterr().out
    names = {"iqm.svg", "iqm.png", "profile.svg", "profile.png", "suite.html",
             "iqm.csv", "profile.csv", "scores.csv", "medians.csv"}  # fmt: skip
    written = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert set(written) == names
    page = Page(written["suite.html"].decode())
    assert [tag for tag, _ in page.sources] == ["img", "img"]
    assert all(source.startswith("data:") for _, source in page.sources)
    rows = list(csv.DictReader((tmp_path / "out/scores.csv").open()))
    assert rows[0] == {"task": "A-v0", "contender": "es", "run": "0", "return": "300.0", "score": "0.995"}
    assert suite.main([*folders, f"out={tmp_path / 'out'}"]) == 0
    assert written == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}


def test_bad_input_is_one_line(tmp_path):
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn/results.json").write_text("[]")
    (tmp_path / "a").mkdir()
    (tmp_path / "a/results.json").write_text(json.dumps(task("A-v0")))
    for argv, message in (
        ([], "no comparison is given"),
        ([str(tmp_path / "none")], "No such file"),
        ([str(tmp_path / "torn")], "not a comparison's results"),
        ([str(tmp_path / "a"), str(tmp_path / "a")], "A-v0: 2 of the comparisons"),
        ([str(tmp_path / "a"), "contenders=[es,pp0]"], "contenders=pp0: unknown"),
        ([str(tmp_path / "a"), "to=x"], "to"),
    ):
        with pytest.raises(ConfigError, match=message):
            suite.main(argv)
