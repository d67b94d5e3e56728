"""Compare es_rl with other trainers and the random policy on the same processors, and write a report."""
