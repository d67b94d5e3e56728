"""Somebody's own cluster, with an actor that counts. Each line on stdin is answered by its count and its workers.

The line `end` ends its head without grace, and is not answered.
"""

import contextlib
import json
import sys
from pathlib import Path

import psutil
import ray

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from simulated_nodes import simulated


class Counter:
    count = 0

    def more(self):
        self.count += 1
        return self.count


def is_actor(process):
    with contextlib.suppress(psutil.Error):  # it has just ended
        return (process.cmdline() or [""])[0].startswith("ray::Actor")
    return False


if __name__ == "__main__":
    with simulated(1, cpus=2) as nodes:
        ray.init(address=nodes.address, log_to_driver=False)
        counter = ray.remote(Counter).options(num_cpus=0).remote()
        print(json.dumps(nodes.address), flush=True)
        for line in sys.stdin:
            if line == "end\n":
                for part in ("gcs_server", "raylet"):
                    getattr(nodes.head, f"kill_{part}")()
                break
            actors = sorted(p.pid for p in psutil.Process().children(recursive=True) if is_actor(p))
            print(json.dumps([ray.get(counter.more.remote()), actors]), flush=True)
        ray.shutdown()
