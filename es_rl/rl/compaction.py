"""Keep the rows of arrays contiguous when some of them are removed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Compaction:
    """Moves the last rows into the gaps left by finished ones; no other row moves."""

    holes: NDArray[np.int64]  # removed rows before the new end
    fillers: NDArray[np.int64]  # equally many kept rows, from behind the new end
    left: int  # number of rows kept

    @classmethod
    def of(cls, leaving: NDArray[np.bool_]) -> Compaction:
        """Return the compaction that removes the rows marked by `leaving` (n,)."""
        left = len(leaving) - int(np.count_nonzero(leaving))
        return cls(np.flatnonzero(leaving[:left]), left + np.flatnonzero(~leaving[left:]), left)

    def apply(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Move rows of an array in place. Return a view of the rows kept."""
        rows[self.holes] = rows[self.fillers]
        return rows[: self.left]
