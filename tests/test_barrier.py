"""The barrier of ranks under a collective that only enqueues, as nccl's do."""

import os
import subprocess
import sys
import time
from pathlib import Path

LATE_SECONDS = 1.5
"""Rank 1 comes to the barrier this much later than rank 0."""


def test_the_host_waits_although_the_collective_only_enqueues(tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(tmp_path)],
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=120)[0].split() for process in processes]
    finally:
        for process in processes:
            process.kill()
    (_, first_left), (last_came, _) = ((float(came), float(left)) for came, left in said)
    assert first_left >= last_came


def wait(rank: int, folder: Path) -> tuple[float, float]:
    """Return the times at which a rank comes to the barrier and leaves it, on a clock of both."""
    import torch
    import torch.distributed as dist

    from core.parallel import Ranks

    address = f"file://{folder / 'rendezvous'}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    ranks, reduce, read, pending = Ranks.current(), dist.all_reduce, torch.Tensor.item, []
    ranks.gather(0)

    def read_when_done(tensor):
        while pending:
            pending.pop().wait()
        return read(tensor)

    dist.all_reduce = lambda tensor: pending.append(reduce(tensor, async_op=True))
    torch.Tensor.item = read_when_done
    if rank == 1:
        time.sleep(LATE_SECONDS)
    came = time.monotonic()
    ranks.barrier()
    left = time.monotonic()
    while pending:
        pending.pop().wait()
    dist.destroy_process_group()
    return came, left


if __name__ == "__main__":
    print(*wait(int(sys.argv[1]), Path(sys.argv[2])))
