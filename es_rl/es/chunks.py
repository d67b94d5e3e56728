"""How a population is cut into chunks, the members of one job, and chunks into the shares of workers."""

from __future__ import annotations

TOGETHER = 64  # simulations side by side in a worker, above which it takes no further chunk


TOGETHER_CENTRAL = 1024  # of a chunk of central inference


WORTHWHILE = 8  # members of a chunk of a small population, or half of it


LARGE = 256  # members of a population that keeps eight workers busy, smaller ones four


def default_chunk(population: int, episodes: int, *, central: bool = False) -> int:
    """Members of a chunk of at most so many simulations, all chunks as equal as can be.

    A share of the population, so that work spreads over workers, but of a small one half, since a step of a few
    simulations costs nearly as much as one of many. Half where one place acts for them all, and two chunks take turns.
    """
    spread = max(population // (4 if population < LARGE else 8), min(-(-population // 4) * 2, WORTHWHILE))
    share, together = (population // 2, TOGETHER_CENTRAL) if central else (spread, TOGETHER)
    most = max(2, min(share, together // episodes) // 2 * 2)
    chunks = -(-population // most)
    return 2 * -(-population // (2 * chunks))


def idle_workers(population: int, chunk: int, workers: int) -> str:
    """What to tell whoever has more workers than there are chunks for them; nothing if there are enough."""
    chunks = -(-population // chunk)
    if chunks >= workers:
        return ""
    smaller = max(2, population // workers // 2 * 2)
    remedy = f"chunk={smaller}, or a larger es.population" if smaller < chunk else "a larger es.population"
    return f"warning: {population} members in chunks of {chunk} keep {chunks} of {workers} workers busy. Give {remedy}."


def divide(members: range, workers: int, most: int) -> list[range]:
    """Parts of the members, of at most so many and an even number each, as jobs for workers.

    Half of the members in four for each worker, a quarter in as many, and the last quarter in smaller ones still: the
    smaller the last parts are, the less does one worker wait for another, and each part costs something.
    """
    n, parts, start = len(members), [], 0
    for i, end in enumerate((n // 4 * 2, n // 8 * 6, n)):
        size = 2 * max(1, min(n // (16 * max(1, workers)), most // 2) >> i)
        starts = range(start, end, size)
        parts += [members[j : min(j + size, end)] for j in starts]
        start = end
    return parts
