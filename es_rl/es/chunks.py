"""Division of a population into chunks, the members of one job, and of members into smaller jobs for workers."""

from __future__ import annotations

TOGETHER = 64  # most simulations of a default chunk; a worker that runs this many takes no further chunk


TOGETHER_CENTRAL = 1024  # most simulations of a default chunk with central inference


WORTHWHILE = 8  # members of a default chunk of a small population; about half the population if that is fewer


LARGE = 256  # from this many members on, a default chunk is an eighth of the population; below, a quarter


def default_chunk(population: int, episodes: int, *, central: bool = False) -> int:
    """Return the default number of members in a chunk: even, limited in simulations, with chunks of about equal size.

    A chunk is a fraction of the population, so that work spreads over workers. In a small population it is up to half,
    because a step of a few simulations costs nearly as much as a step of many. With `central` inference it is half, so
    that two chunks take turns.
    """
    spread = max(population // (4 if population < LARGE else 8), min(-(-population // 4) * 2, WORTHWHILE))
    share, together = (population // 2, TOGETHER_CENTRAL) if central else (spread, TOGETHER)
    most = max(2, min(share, together // episodes) // 2 * 2)
    chunks = -(-population // most)
    return 2 * -(-population // (2 * chunks))


def idle_workers(population: int, chunk: int, workers: int) -> str:
    """Return a warning if there are fewer chunks than workers, else an empty string."""
    chunks = -(-population // chunk)
    if chunks >= workers:
        return ""
    smaller = max(2, population // workers // 2 * 2)
    remedy = f"chunk={smaller}, or a larger es.population" if smaller < chunk else "a larger es.population"
    return f"warning: {population} members in chunks of {chunk} keep {chunks} of {workers} workers busy. Give {remedy}."


def divide(members: range, workers: int, most: int) -> list[range]:
    """Divide the members into jobs for workers, each of an even number of members, at most `most`.

    Each worker gets about four jobs from the first half of the members, four from the next quarter and eight from the
    last quarter. Small jobs at the end shorten the wait for the slowest worker, but every job has a cost.
    """
    n, parts, start = len(members), [], 0
    for i, end in enumerate((n // 4 * 2, max(n // 4 * 2, n // 8 * 6), n)):  # of 4 or 6 members there is no middle part
        size = 2 * max(1, min(n // (16 * max(1, workers)), most // 2) >> i)
        starts = range(start, end, size)
        parts += [members[j : min(j + size, end)] for j in starts]
        start = end
    return parts
