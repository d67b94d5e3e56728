"""Which workers a pool on a cluster leaves out, and what becomes of their jobs: without Ray."""

import pickle

import pytest

from es_rl.errors import CheckpointError, ConfigError, ResourceError
from es_rl.workers.cluster import admission, connection
from es_rl.workers.cluster.config import ClusterConfig
from es_rl.workers.cluster.pool import ClusterWorkers, why
from es_rl.workers.cluster.state import ActorState, ClusterMap
from es_rl.workers.worker import JobFailure

OURS = {"Python": "3.11", "Ray": "2.60.0", "es_rl": "0.1.0 (source 0123)"}
PRINT = {"numpy": "a", "torch": "b"}


class Crew:
    """Actors that are not there: what they say is in a list."""

    def __init__(self, config, count):
        self.workers = [ActorState(i, None, None) for i in range(2)]
        self.count, self.exhausted, self.said, self.given = 2, False, [], {}

    def adjust(self):
        """There are as many as wanted."""

    def nodes(self):
        return {"n": {}}

    def replace(self, worker):
        self.workers.remove(worker)
        self.workers.append(ActorState(worker.slot, None, None))

    def listen(self, seconds):
        while self.said:
            worker, *messages = self.said.pop(0)
            yield self.workers[worker], ([pickle.dumps(m) for m in messages], [])

    def close(self):
        """Nothing was begun."""


@pytest.fixture
def crewed(monkeypatch):
    """A pool with such actors, which answer each job with its number, or with what `answers` has for a worker."""
    monkeypatch.setattr("es_rl.workers.cluster.pool.Connection", lambda config: Crew(config, 0))
    monkeypatch.setattr("es_rl.workers.cluster.pool.Staff", Crew)
    monkeypatch.setattr(admission, "software", lambda: OURS)
    events, answers = [], {}
    pool = ClusterWorkers(ClusterConfig(address="local", same_bits="strict"), None, on_event=events.append)
    pool.events, pool.answers = events, answers

    def give(worker, m, numbers):
        worker.jobs.update(dict.fromkeys(numbers, 0.0))
        worker.last_beat = float("inf")
        at = pool.workers.index(worker)
        pool._staff.said += [(at, ("done", n, answers.get(at, m.job(n)))) for n in numbers]

    monkeypatch.setattr(pool, "_give", give)
    return pool


def told(host, software=OURS, fingerprint=PRINT):
    return ("ready", {"host": host, "node": host, "pid": 1, "software": software, "fingerprint": fingerprint})


@pytest.mark.parametrize("name", OURS)
def test_a_worker_with_other_software_is_left_out_and_named(name, crewed):
    crewed._staff.said = [(0, told("one", OURS | {name: "0"})), (1, told("two"))]
    assert crewed.map(None, None, ["a", "b", "c"]) == ["a", "b", "c"]
    assert [w.refused for w in crewed.workers] == [True, False] and crewed.figures()["cluster/actors"] == 1
    assert (
        crewed.events == [f"{crewed.events[0]}"]
        and f"one has {name} 0, and this machine {OURS[name]}" in crewed.events[0]
    )


def test_a_cluster_on_which_no_worker_has_our_software_is_refused(crewed):
    crewed._staff.said, crewed._staff.exhausted = [(0, told("one", OURS | {"Ray": "1.0"}))], True
    with pytest.raises(ResourceError, match=r"one has Ray 1.0, and this machine 2.60.0. Install the same version"):
        crewed.map(None, None, ["a"])


def test_a_processor_that_computes_other_bits_is_left_out_each_time_it_begins(crewed):
    other = told("two", fingerprint=PRINT | {"torch": "c"})
    crewed._staff.said = [(0, told("one")), (1, other)]
    assert crewed.map(None, None, ["a"]) == ["a"] and crewed.workers[1].refused
    crewed._staff.replace(crewed.workers[1])
    crewed._staff.said = [(1, other)]
    assert crewed.map(None, None, ["a", "b"]) == ["a", "b"] and crewed.workers[1].refused
    assert len(crewed.events) == 1 and "two computes other bits than one (torch)" in crewed.events[0]


def test_a_run_that_goes_on_compares_with_the_processor_with_which_it_began(tmp_path, monkeypatch):
    monkeypatch.setattr(admission, "software", lambda: OURS)
    kept, said = tmp_path / "fingerprint.json", []
    first = admission.Admission(True, said.append, kept)
    assert first.refusal(told("one")[1]) is None and kept.exists()
    later = admission.Admission(True, said.append, kept)
    other = told("two", fingerprint=PRINT | {"torch": "c"})[1]
    assert "two computes other bits than one (torch)" in str(later.refusal(other))  # though it answers first
    assert later.refusal(told("three")[1]) is None
    lenient = admission.Admission(False, said.append, kept)
    assert lenient.refusal(other) is None and "two computes other bits than one" in said[0]
    kept.write_text("[]")
    with pytest.raises(CheckpointError, match=r"fingerprint.json: cannot be read. Delete it"):
        admission.Admission(True, said.append, kept)


def test_a_machine_without_a_module_is_left_out_and_its_jobs_run_elsewhere(crewed):
    missing = JobFailure("raised", "ModuleNotFoundError: No module named 'mine'", "… ModuleNotFoundError: No module …")
    crewed.answers[0] = missing
    crewed._staff.said = [(0, told("one")), (1, told("two"))]
    assert crewed.map(None, None, ["a", "b", "c"]) == ["a", "b", "c"]
    assert [w.refused for w in crewed.workers] == [True, False]
    assert "one: ModuleNotFoundError: No module named 'mine'. Give cluster.runtime_env.working_dir" in crewed.events[0]
    crewed.answers[1], crewed._staff.exhausted = missing, True
    with pytest.raises(ConfigError, match="two: ModuleNotFoundError"):
        crewed.map(None, None, ["a"])


def test_a_straggler_that_hangs_in_both_its_workers_fails(crewed):
    """Else a member that never ends would take one worker after the other, for ever."""
    told = []
    m = ClusterMap(None, None, list("abcd"), lambda index, outcome: told.append((index, outcome)), 10, True)
    m.waiting.clear()
    m.twice.add(12)
    crewed.workers[0].jobs[12] = crewed.workers[1].jobs[12] = 0.0
    crewed._lost(crewed.workers[1], "hung", "hung", m)
    assert not m.twice and not m.waiting and m.losses[12].hung == 1 and not told
    assert m.straggler(crewed.workers) is None
    crewed._lost(next(worker for worker in crewed.workers if worker.jobs), "hung", "hung", m)
    assert told == [(2, JobFailure("hung", ""))] and not m.waiting


def test_a_place_where_no_worker_can_begin_is_left_out_once(crewed):
    error = RuntimeError("died\nModuleNotFoundError: No module named 'es_rl'")
    error.actor_init_failed = True
    crewed.workers[0].facts = told("one")[1]
    m = ClusterMap(None, None, [], lambda index, outcome: None, 10, True)
    crewed._staff.listen = lambda seconds: iter([(crewed.workers[1], error)])
    assert list(crewed._listen(0.0, m)) == [] and crewed.workers[1].gone and crewed.workers[1].refused
    assert crewed.events == [
        "a worker cannot begin on its machine (ModuleNotFoundError: No module named 'es_rl'), and is left out"
    ]


def test_errors_of_ray_are_one_line():
    many = RuntimeError(
        "Version mismatch: The cluster was started with:\n    Ray: 1.0\n    Python: 3.9\nThis process …"
    )
    assert (
        connection.said(many) == "Version mismatch: The cluster was started with: Ray: 1.0 Python: 3.9 This process …"
    )
    assert connection.said(ValueError("first\nsecond")) == "first" and connection.said(ValueError()) == "ValueError"
    made = RuntimeError("The actor died because\n  trace\nModuleNotFoundError: No module named 'es_rl'")
    assert why(made) == "The actor died because"
    made.actor_init_failed = True
    assert why(made) == "ModuleNotFoundError: No module named 'es_rl'"
