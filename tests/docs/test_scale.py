"""The model of many workers, and after how many cores es_rl is ahead: what can be computed by hand."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import scale_cores
import scale_pages
from scale_cores import Trainer, crossover, reached
from scale_model import Costs, Setting, efficiency

FREE = Costs(job=0.0, update=0.0, step=1e-3)
EQUAL = np.array([100])


def share(costs=FREE, lengths=EQUAL, **setting):
    return efficiency(Setting(whole=True, chunk=64, **setting), costs, lengths)


def test_a_model_without_costs_is_as_good_as_the_division_of_jobs_allows():
    assert share(workers=4, population=64 * 8) == pytest.approx(1.0)
    assert share(workers=8, population=64 * 12) == pytest.approx(0.75)  # the second round is half empty
    assert share(workers=8, population=64 * 4) == pytest.approx(0.5)


def test_what_one_process_does_for_all_limits_how_many_workers_are_of_use():
    job = 64 * 0.1
    assert share(Costs(0.0, job / 64, 1e-3), workers=1, population=64) == pytest.approx(0.5)  # the update takes as long
    few, many = (share(Costs(0.01, 0.0, 1e-3), workers=n, population=64 * n * 4) for n in (10, 1000))
    assert few > 0.95 and many == pytest.approx(job / (1000 * 0.01), rel=0.1)  # the parent is busy all the time


def test_a_parent_that_listens_to_many_has_less_time_for_jobs():
    costs = Costs(0.01, 0.0, 1e-3, waiting=0.1, listening=1e-3)
    assert costs.beside(400).job == pytest.approx(0.02)
    few, many = (share(costs, workers=400, population=64 * 400 * n) for n in (1, 4))
    assert few < many < share(replace(costs, listening=0.0), workers=400, population=64 * 400 * 4)


def test_the_costs_of_the_parent_are_fitted_to_what_was_measured():
    rows = [
        {"wall": wall, "actors": n, "jobs": jobs, "job_seconds": 6.4, "length": 1000,
         "parent_share": 0.02 + 0.001 * n + 0.002 * jobs / wall}
        for wall, n, jobs in ((12.0, 1, 2), (13.0, 8, 16), (12.0, 8, 160), (15.0, 32, 500))
    ]  # fmt: skip
    costs = scale_pages.costs_of({"measured": {"found": {"rows": rows}}, "lengths": {"found": {"update": 1e-6}}})
    found = costs.waiting, costs.listening, costs.job, costs.step
    assert found == pytest.approx((0.02, 0.001, 0.002, 1e-4))


def test_stragglers_and_losses_cost_something_and_no_job_is_forgotten():
    base = {"workers": 64, "population": 64 * 256}
    best = share(**base)
    slow, helped = share(slow=0.05, **base), share(slow=0.05, factor=100.0, **base)
    assert slow < best and helped > best / 10  # 100 times as slow, were it not for the second worker
    lost = efficiency(Setting(losses=60.0, node=8, whole=True, **base), FREE, EQUAL)
    assert 0 < lost < best


def test_the_first_time_that_a_curve_reaches_a_return_is_between_two_points():
    curve = [(0, 0.0), (10, 5.0), (20, 1.0), (30, 9.0)]
    assert reached(curve, 2.5) == 5 and reached(curve, 7.0) == 27.5 and reached(curve, 9.1) is None
    assert reached(curve, -1.0) == 0


def test_more_cores_help_the_trainer_with_the_smaller_serial_share():
    ours, theirs = Trainer(4000, 1.0, serial=0.0), Trainer(1000, 1.0, serial=0.5)
    assert crossover(ours, theirs) == 7  # 4000/7 < 500 + 500/7, but 4000/6 > 500 + 500/6
    assert crossover(Trainer(500, 1.0, 0.5), theirs) == 1
    assert crossover(Trainer(4000, 1.0, 0.5), theirs) is None
    assert crossover(Trainer(None, 1.0, 0.0), theirs) is None and crossover(ours, Trainer(None, 1.0, 0.0)) == 1
    assert crossover(Trainer(4000, 1.0, 0.0, parts=4), theirs) is None  # it cannot use more than four


@pytest.fixture
def comparison(tmp_path):
    """A recorded comparison with three seeds: es_rl needs twice the steps of PPO."""
    lines = ["contender,seed,seconds,cpu_seconds,env_steps,return"]
    for seed in range(3):
        lines += [f"es,{seed},0,0,{steps},{steps / 20 + seed}" for steps in range(0, 2001, 100)]
        lines += [f"ppo_fast,{seed},0,0,{steps},{steps / 10 + seed}" for steps in range(0, 1001, 100)]
        run = tmp_path / f"es-{seed}" / "run"
        run.mkdir(parents=True)
        generation = {"time/rollout": 9.0, "time/update": 1.0}
        (run / "config.yaml").write_text("es: {segment: 64}\ncredit: {simulations: 32}\n")
        (run / "metrics.jsonl").write_text('{"generation": 0}\n' + json.dumps(generation) + "\n")
    (tmp_path / "curves.csv").write_text("\n".join(lines) + "\n")
    about = {"env_steps": 1000, "seconds": 10.0, "resources": {"environments": 64}}
    runs = [{"name": n} | about for n in ("es", "ppo_fast")] + [{"name": "ars"}]
    (tmp_path / "results.json").write_text(json.dumps({"env": "Toy-v0", "runs": runs}))
    return tmp_path


def test_a_recorded_comparison_gives_a_crossover_a_table_and_a_figure(comparison):
    half, most = scale_cores.compare(comparison, simulating=0.5, shares=(0.5, 1.0))
    assert half["return"] == pytest.approx(50.5) and most["return"] == pytest.approx(101.0)
    assert half["es"] | {"steps": 0} == {"steps": 0, "rate": 100.0, "serial": pytest.approx(0.1), "parts": 32}
    assert half["es"]["steps"] == pytest.approx(990) and half["ppo_fast"]["steps"] == pytest.approx(495)
    # 990 (0.1 + 0.9 / n) <= 495 (0.5 + 0.5 / n) from n = 643.5 / 148.5 on
    assert half["cores"] == 5
    about = {"machine": {"processors": 1, "processor": "X"}, "command": "c", "date": "d"}
    text = scale_pages.cores({"found": [half, most], **about})
    assert "| Toy-v0 | 50 | 50 % | 5 | 0.10 | 0.50 | 3 |" in text
    assert "5" in scale_pages.crossing([half, most]).svg
