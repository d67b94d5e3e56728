"""A generation that never ends is given up, and one of usual length never is."""

import pytest

from es_rl.run import overrun as module
from es_rl.run.checkpoint import Progress
from es_rl.run.overrun import FACTOR, GRACE, TIMES, GivenUp, Overrun
from es_rl.run.terms import RETURN, StopRules


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def seconds_until_given_up(watch, clock, most=1e5):
    start = clock[0]
    while clock[0] - start < most:
        try:
            watch.check()
        except GivenUp as rule:
            return clock[0] - start, str(rule)
        clock[0] += 1
    return None


def test_the_first_generation_may_take_as_long_again_as_the_run_and_a_minute_at_least(clock):
    for minutes, longest in ((10, 1200), (0.1, 6 + GRACE)):
        watch = Overrun(StopRules(None, None, minutes, None), RETURN)
        watch.begin(Progress())
        seconds, rule = seconds_until_given_up(watch, clock)
        assert seconds == pytest.approx(longest, abs=2) and rule == f"minutes={minutes:g}"


def test_a_generation_of_usual_length_ends_whenever_it_began(clock):
    watch = Overrun(StopRules(None, None, 10.0, None), RETURN)
    watch.begin(Progress())
    clock[0] += 500
    watch.check()
    watch.end()
    watch.begin(Progress(seconds=599.0))
    seconds, _ = seconds_until_given_up(watch, clock)
    assert seconds == pytest.approx(1 + TIMES * 500, abs=2)


def test_steps_are_counted_in_the_generation_in_progress(clock):
    watch = Overrun(StopRules(None, 1000, None, None), RETURN)
    watch.begin(Progress())
    watch.count((1 + FACTOR) * 1000)
    clock[0] += GRACE + 1
    watch.check()
    watch.end()
    watch.begin(Progress(steps=950))
    watch.count(50 + TIMES * (1 + FACTOR) * 1000 + 1)
    watch.check()  # it is done so fast that it does no harm
    clock[0] += GRACE + 1
    with pytest.raises(GivenUp, match="env_steps=1000"):
        watch.check()
    watch.begin(Progress(steps=950))
    watch.count(50 + TIMES * (1 + FACTOR) * 1000)
    clock[0] += GRACE + 1
    watch.check()


def test_nothing_is_given_up_between_generations_or_without_such_rules(clock):
    watch = Overrun(StopRules(None, None, 1.0, None), RETURN)
    assert seconds_until_given_up(watch, clock) is None
    watch = Overrun(StopRules(5, None, None, 3.0), RETURN)
    watch.begin(Progress())
    watch.count(10**12)
    assert seconds_until_given_up(watch, clock) is None
