"""Record the actions of an actor, to step simulations with them again without it."""


class Recorded:
    """An actor that notes the actions of another one in `steps`, a list of (running simulations, actions)."""

    def __init__(self, actor):
        self._actor, self.steps = actor, []

    def __call__(self, running, obs):
        actions = self._actor(running, obs)
        self.steps.append((running, actions))
        return actions

    def drop(self, gaps):
        self._actor.drop(gaps)
