"""Draw one shard with little memory for each drawing: `python cramped.py GENERATOR BATCH MEGABYTES`; JSON result."""

import resource
import sys
from pathlib import Path

from cifake_core.generation import generators, plan
from cifake_core.generation.run import run_shard
from cifake_core.storage import Store


class Cramped:
    """A real back end whose process may grow by so many megabytes while it draws, and no more."""

    def __init__(self, backend, megabytes):
        self.backend, self.megabytes = backend, megabytes
        self.device, self.batch = backend.device, backend.batch

    def draw(self, requests):
        before = resource.getrlimit(resource.RLIMIT_AS)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + self.megabytes * 2**20, before[1]))
        try:
            return self.backend.draw(requests)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)


def main(generator: str, batch: int, megabytes: int) -> None:
    store = Store()
    made = plan.make(generator, 10 * batch, 0)
    shard = made.shards[0]
    backend = generators.open_backend(generators.named(generator), threads=1)
    backend.draw(made.requests(shard)[:1])  # what is allocated once is allocated now
    result = run_shard(store, made, shard, lambda: Cramped(backend, megabytes), batch)
    print(result.model_dump_json())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
