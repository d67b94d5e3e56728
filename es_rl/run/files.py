"""Names of the files of a run directory."""

CONFIG = "config.yaml"  # the resolved keys; each checkpoint has a copy
COMMAND = "command.txt"
VERSIONS = "versions.json"
METRICS = "metrics.jsonl"  # a line for each generation
WORKERS_LOG = "workers.log"  # what workers print
