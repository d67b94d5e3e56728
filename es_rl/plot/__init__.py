"""Curves of runs as pictures, without TensorBoard: `figure` draws them, and the verb writes a PNG and a page.

`style` and `web` are the look of every figure and page of the package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from es_rl.plot.panels import figure as figure

__all__ = ["figure"]


def __getattr__(name: str) -> Any:
    if name in __all__:  # on first use: reading runs imports torch, which takes long
        from es_rl.plot import panels

        return getattr(panels, name)
    raise AttributeError(f"module 'es_rl.plot' has no attribute {name!r}")
