"""The supervisor: order, deaths, hangs, exceptions, abandonment, nothing left behind."""

import fcntl
import os
import resource
import signal
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from jobs import NeverBegins, Together, double, draw, large, misbehave, print_and_report_signals, slow

from es_rl.errors import EnvError, ResourceError, Stopped
from es_rl.workers.fork_server import NUMBER, Forked
from es_rl.workers.machine import available_processors
from es_rl.workers.pool import DEATHS, HANGS, Workers
from es_rl.workers.worker import JobFailure


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return tmp_path_factory.mktemp("log") / "workers.log"


@pytest.fixture(scope="module")
def workers(log):
    with Workers(2, hang_after=2.0, log=log) as pool:
        yield pool


@pytest.mark.parametrize("count", [0, 2])
def test_results_come_in_the_order_of_the_jobs(count, workers):
    pool = workers if count else Workers(0)
    assert pool.map(double, 100, list(range(20))) == [100 + 2 * i for i in range(20)]
    assert pool.map(double, 0, [7]) == [14]
    assert pool.map(double, 0, []) == []


def test_large_messages_pass_both_ways(workers):
    size = 3_000_000  # far beyond the buffer of a pipe
    results = workers.map(large, np.arange(size, dtype=float), [size] * 3)
    assert all(np.array_equal(r, np.arange(size) + 1.0) for r in results)


def test_a_job_whose_worker_dies_or_hangs_is_run_again(workers, tmp_path, monkeypatch):
    # the workers' directory is that of their start: tell them by an absolute path
    trouble = {1: ("die", 1), 3: ("exit", 2), 4: ("hang", 1), 6: ("die", DEATHS - 1)}
    with Workers(2, hang_after=2.0) as pool:
        assert pool.map(misbehave, trouble, list(range(8))) == list(range(8))
        assert sorted(p.name for p in tmp_path.glob("tries-*")) == ["tries-1", "tries-3", "tries-4", "tries-6"]


def test_a_job_that_never_succeeds_has_failed_and_the_others_are_done(tmp_path):
    events = []
    trouble = {0: ("die", 99), 2: ("hang", 99), 3: ("raise", 99)}
    with Workers(2, hang_after=1.0, on_event=events.append) as pool:
        results = pool.map(misbehave, trouble, list(range(5)))
    assert [r for r in results if not isinstance(r, JobFailure)] == [1, 4]
    assert [(r.reason, r.message) for r in results if isinstance(r, JobFailure)] == [
        ("died", f"the worker was killed by SIGKILL, probably because memory ran out; try fewer workers, {DEATHS} times"),
        ("hung", f"the worker finished no step for 1 s (hang_after), {HANGS} times"),
        ("raised", "ValueError: job 3"),
    ]  # fmt: skip
    assert "second line" in results[3].detail
    assert Path("tries-0").read_text() == str(DEATHS) and Path("tries-2").read_text() == str(HANGS)
    assert Path("tries-3").read_text() == "1"
    assert len(events) == DEATHS + HANGS


@pytest.mark.parametrize("count", [0, 2, 3])
def test_a_stream_does_jobs_side_by_side(count):
    with Workers(count) as pool:
        for _ in range(2):
            results = pool.map(Together(), {}, list(range(30)))
            assert [job for job, _ in results] == list(range(30))
            assert 2 <= max(len(beside) for _, beside in results) <= 5
            assert pool.busy > 0 or not count


def test_of_jobs_side_by_side_only_those_fail_that_always_do():
    events = []
    trouble = {1: ("die", 99), 4: ("raise", 99), 9: ("hang", 1), 17: ("die", 1)}
    with Workers(2, hang_after=1.0, on_event=events.append) as pool:
        results = pool.map(Together(), trouble, list(range(20)))
    sound = {r[0]: r[1] for r in results if not isinstance(r, JobFailure)}
    failed = {i: r.reason for i, r in enumerate(results) if isinstance(r, JobFailure)}
    assert failed == {1: "died", 4: "raised"}
    assert sound[9] == [9] and sound[17] == [17]  # each by itself once a worker was lost on it
    assert any("chunks are run again" in event for event in events)


@pytest.mark.parametrize("count", [0, 2])
def test_a_stream_that_cannot_even_begin_is_heard_of(count):
    with Workers(count) as pool:
        for result in pool.map(NeverBegins(), None, list(range(4))):
            assert (result.reason, result.message) == ("raised", "MemoryError: no room")


def test_exceptions_in_this_process_are_the_same_data():
    (result,) = Workers(0).map(misbehave, {0: ("raise", 9)}, [0])
    assert (result.reason, result.message) == ("raised", "ValueError: job 0")


@pytest.mark.parametrize("count", [0, 2])
def test_a_map_is_abandoned_when_the_check_says_so_and_the_pool_goes_on(count):
    steps, wanted = [], [True]

    def check():
        if wanted and len(steps) >= 3:
            raise Stopped("enough", 75)

    with Workers(count, check=check, on_steps=steps.append) as pool:
        with pytest.raises(Stopped):
            pool.map(slow, None, [100] * 8)
        assert sum(steps) < 200  # of 800
        wanted.clear()
        assert pool.map(double, 1, [1, 2, 3]) == [3, 5, 7]


def test_results_may_abandon_a_map(workers):
    seen = []

    def on_result(index, outcome):
        seen.append((index, outcome))
        if len(seen) == 3:
            raise EnvError("too many")

    with pytest.raises(EnvError):
        workers.map(double, 0, list(range(50)), on_result=on_result)
    assert len(seen) == 3 and all(outcome == 2 * index for index, outcome in seen)
    assert workers.map(double, 0, [5]) == [10]


def test_steps_are_reported_while_a_job_runs():
    steps = []
    with Workers(1, on_steps=steps.append) as pool:
        pool.map(slow, None, [25])
    assert sum(steps) == 25 and len(steps) >= 3


@pytest.mark.cold
def test_workers_print_into_the_log_lead_their_group_and_use_one_thread(workers, log):
    assert workers.map(print_and_report_signals, None, [0]) == [(True, "1")]
    assert "printed by a worker\n" in log.read_text() and "printed by its child\n" in log.read_text()


def test_a_stopped_worker_is_replaced():
    with Workers(1, hang_after=2.0) as pool:
        pool.map(double, 0, [1])
        os.kill(pool.pids[0], signal.SIGSTOP)
        assert pool.map(double, 0, [1, 2]) == [2, 4]


@pytest.mark.cold
def test_workers_lost_with_their_server_are_replaced():
    events = []
    with Workers(2, on_event=events.append) as pool:
        pool.map(double, 0, [1, 2])
        before = pool.pids
        psutil.Process(pool.pids[0]).parent().kill()
        assert pool.map(slow, None, [3] * 4) == [3] * 4
        assert not {*before} & {*pool.pids} and len(events) >= 2


@pytest.mark.cold
def test_a_server_has_one_thread_and_its_workers_draw_numbers_of_their_own():
    with Workers(2) as pool:
        drawn = pool.map(draw, None, [0, 1])
        server = psutil.Process(pool.pids[0]).parent()
        assert server.num_threads() == 1 and server.pid != os.getpid()
    assert drawn[0] != drawn[1]


@pytest.mark.cold
def test_a_server_that_cannot_be_started_is_one_error(monkeypatch):
    def refuse(*args, **kwargs):
        raise ResourceError("no more processes")

    monkeypatch.setattr("es_rl.workers.fork_server.start_process", refuse)
    before = psutil.Process().num_fds()
    with pytest.raises(ResourceError, match="no more processes"):
        Workers(2)
    assert psutil.Process().num_fds() == before


@pytest.mark.cold
def test_nothing_is_left_behind_and_files_do_not_pile_up():
    me = psutil.Process()
    before = set(me.children(recursive=True))
    for round in range(3):
        with Workers(2) as pool:
            pool.map(double, 0, [1, 2, 3])
            os.kill(pool.pids[0], signal.SIGKILL)
            pool.map(double, 0, [1, 2, 3])
        if round == 0:
            files = me.num_fds()
    assert me.num_fds() <= files
    assert {p for p in me.children(recursive=True) if "resource_tracker" not in " ".join(p.cmdline())} <= before


def test_a_replacement_that_cannot_be_started_is_one_error_and_leaves_nothing(monkeypatch):
    with pytest.raises(ResourceError, match="no more processes"), Workers(2) as pool:
        pool.map(double, 0, [1, 2])
        pids = pool.pids

        def refuse(*args, **kwargs):
            raise ResourceError("no more processes")

        monkeypatch.setattr("es_rl.workers.fork_server.ForkServer.start", refuse)
        os.kill(pids[0], signal.SIGKILL)
        pool.map(slow, 0, [20] * 4)
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_processors_are_those_this_process_may_use():
    everything = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, [min(everything)])
        assert available_processors() == 1
    finally:
        os.sched_setaffinity(0, everything)
    assert 1 <= available_processors() <= len(everything)


@pytest.mark.cold
def test_a_pool_closes_though_the_program_has_forked_and_leaves_its_resource_tracker_alone(recwarn):
    for _ in range(2):
        with Workers(1) as pool:
            assert pool.map(double, 0, [1]) == [2]
            if not (child := os.fork()):
                time.sleep(60)
                os._exit(0)
            begun = time.monotonic()
        assert time.monotonic() - begun < 10
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert not [w for w in recwarn if "resource_tracker" in str(w.message)]


def test_a_worker_is_heard_behind_a_thousand_open_files():
    """`select` knows no descriptor above 1023, and each worker has two."""
    status, told = os.pipe()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 2048)), hard))
    try:
        process = Forked(fcntl.fcntl(status, fcntl.F_DUPFD, 1500))
        assert process.pid is None and process.exitcode is None
        os.write(told, NUMBER.pack(7))
        os.write(told, NUMBER.pack(3))
        assert process.pid == 7 and process.exitcode == 3
        process.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(status)
        os.close(told)
