"""Rows of arrays that stand side by side without gaps, whichever of them leave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Compaction:
    """What rows leave behind, of which the last ones that stay are moved into it: nothing else need move."""

    holes: NDArray[np.int64]  # rows that leave, before the new end
    fillers: NDArray[np.int64]  # as many rows that stay, behind it
    left: int  # how many rows stay

    @classmethod
    def of(cls, leaving: NDArray[np.bool_]) -> Compaction:
        """The gaps after the rows that `leaving` (n,) marks."""
        left = len(leaving) - int(np.count_nonzero(leaving))
        return cls(np.flatnonzero(leaving[:left]), left + np.flatnonzero(~leaving[left:]), left)

    def close(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Move rows of an array, in place; the view of those that stay."""
        rows[self.holes] = rows[self.fillers]
        return rows[: self.left]
