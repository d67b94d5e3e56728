"""The comparison: es_rl, other trainers and the random policy on the same processors, and a report of it."""
