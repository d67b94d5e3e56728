"""Give up a generation that goes on long after the run should have stopped: its episodes may never end."""

from __future__ import annotations

import time

from es_rl.errors import Stopped
from es_rl.run.checkpoint import Progress
from es_rl.run.terms import RunTerms, StopRules

GRACE = 60.0  # seconds that a generation may go on after the run's minutes or steps are over, at least
FACTOR = 10  # a generation may take this many times the steps of the run, at least: it may be larger than the run
TIMES = 2  # a generation may also take this many times as long as the longest one before, or as many steps


class GivenUp(Stopped):
    """The generation that was running does not count: the run ends with the one before. Its message is the rule."""

    def __init__(self, rule: str) -> None:
        super().__init__(rule, 0)


class Overrun:
    """Watches the generation in progress. A generation of usual length always ends, so that no work is lost."""

    def __init__(self, rules: StopRules, terms: RunTerms) -> None:
        self._rules, self._terms = rules, terms
        self._progress: Progress | None = None  # at the start of the generation in progress
        self._begun, self._steps = 0.0, 0
        self._longest, self._most = 0.0, 0  # seconds and steps of the generations so far

    def begin(self, progress: Progress) -> None:
        """Watch from here on."""
        self._progress, self._begun, self._steps = progress, time.monotonic(), 0

    def end(self) -> None:
        """Stop watching: the generation is complete."""
        self.pause()
        self._longest = max(self._longest, time.monotonic() - self._begun)
        self._most = max(self._most, self._steps)

    def pause(self) -> None:
        """Stop watching what was no generation."""
        self._progress = None

    def count(self, steps: int) -> None:
        """Take note of steps just done."""
        self._steps += steps

    def check(self) -> None:
        """Raise `GivenUp` if the generation in progress is far beyond a stop rule."""
        if self._progress is None:
            return
        rules, seconds = self._rules, time.monotonic() - self._begun
        if rules.minutes is not None:
            allowed = 60 * rules.minutes
            left = allowed - self._progress.seconds
            if seconds > max(0.0, left) + max(GRACE, TIMES * self._longest or allowed):
                raise GivenUp(f"minutes={rules.minutes:g}")
        if rules.steps is not None and seconds > GRACE:
            left = max(0, rules.steps - self._progress.steps)
            if self._steps > left + max(TIMES * self._most, FACTOR * rules.steps):
                raise GivenUp(f"{self._terms.steps}={rules.steps}")
