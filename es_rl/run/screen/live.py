"""A live panel that leaves nothing behind in a window whose width changes."""

from __future__ import annotations

from rich.console import ConsoleRenderable
from rich.live import Live

WIDEST = 100  # columns of the panel: a window that stays wider than that never breaks its lines


class ResizableLive(Live):
    """A live panel that is drawn anew where it stood after its window got narrower.

    Most terminals then break each line of the panel into several rows, and the cursor has to go up by all of these.
    """

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Count the rows that the panel takes now; rich counts those on which it was drawn."""
        with self._lock:
            shape, width = self._live_render._shape, max(1, self.console.width)
            if shape is not None and shape[0] > width:
                self._live_render._shape = (width, shape[1] * -(-shape[0] // width))
        return super().process_renderables(renderables)
