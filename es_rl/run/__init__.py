"""A run: its directory, checkpoints, log and screen, and the loop that every kind of training shares."""

# Names of the files of a run directory.
CONFIG = "config.yaml"  # the resolved keys; each checkpoint has a copy
COMMAND = "command.txt"
VERSIONS = "versions.json"
METRICS = "metrics.jsonl"  # a line for each generation
WORKERS_LOG = "workers.log"  # what workers print
