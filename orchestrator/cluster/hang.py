"""Hangs of nccl: the settings of Ray's detector, and the rank that the others wait for.

The detector asks nccl's own program `ncclras` on a worker how many collectives each rank has begun.
Where the program is missing, Ray turns the detector off by itself.
"""

from __future__ import annotations

import re
import shutil
import zlib

import pyarrow.fs as fs
from ray.train import NCCLHangError

from orchestrator.cluster.train_internals import started_collectives
from orchestrator.plan.job import Job
from orchestrator.store.files import Files

PROGRAM = "ncclras"
SHARE = 0.9
"""Share of --timeout-seconds after which a hang is sure: before nccl itself ends the processes."""
FIRST_PORT, NUM_PORTS = 28_100, 4_000
"""Ports of this machine on which nccl answers; each group on a machine needs one of its own."""
HISTORY = re.compile(r"\(([^()\n]*/nccl_ras)\)")
"""Ray's words for the folder of the reports that led to its verdict."""


def hang_seconds(job: Job) -> float:
    """Return the seconds without progress after which a group counts as hanging."""
    return SHARE * job.limits.timeout_seconds


def has_nccl(job: Job) -> bool:
    """Return True if the ranks of a job talk through nccl."""
    return job.workers.device == "cuda" and job.workers.num_workers > 1


def is_slow(job: Job) -> bool:
    """Return True if ranks may wait for a solve so long that it looks like a hang."""
    return job.limits.block_seconds >= hang_seconds(job)


def detector_settings(job: Job, process: int) -> dict[str, str]:
    """Return the environment in which Ray watches the groups of a job.

    Args:
        job: the trial.
        process: number of the process that starts its groups, one after another.
    """
    on = has_nccl(job) and not is_slow(job)
    port = FIRST_PORT + zlib.crc32(f"{job.id} {process}".encode()) % NUM_PORTS
    return {
        "RAY_TRAIN_ENABLE_NCCL_HANG_DETECTOR": str(int(on)),
        "RAY_TRAIN_NCCL_RAS_ACTION": "fail",
        "RAY_TRAIN_NCCL_RAS_CONFIRM_DURATION_S": f"{hang_seconds(job):g}",
        "NCCL_RAS_ADDR": f"localhost:{port}",
    }


def why_off(job: Job) -> str | None:
    """Return one line if hangs of a job's groups are not looked for, though they use nccl."""
    if not has_nccl(job):
        return None
    if is_slow(job):
        return (
            f"a block is estimated to take {job.limits.block_seconds:,.0f} s, but workers wait at "
            f"most {job.limits.timeout_seconds:g} s for each other: raise --timeout-seconds"
        )
    if shutil.which(PROGRAM) is None:
        return (
            f"this machine has no {PROGRAM}, a program of nccl. If the workers lack it too, a hang "
            "ends only after --timeout-seconds. Its row then does not name the rank."
        )
    return None


def describe_hang(error: NCCLHangError, store_root: str) -> str:
    """Return a row's error: the rank that did not begin what the others wait in.

    Args:
        error: the verdict of Ray's detector; its text names a folder of reports.
        store_root: the store; that folder lies in it too.
    """
    found = HISTORY.search(str(error))
    ranks = [] if found is None else late_ranks(Files(store_root).filesystem, found.group(1))
    if not ranks:
        return "nccl hung, and no report tells which rank; run the same command again"
    who = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"
    return (
        f"nccl hung: {who} did not begin a collective that the others wait in; if it was only "
        "slow, raise --timeout-seconds; run the same command again"
    )


def late_ranks(files: fs.FileSystem, folder: str) -> list[int]:
    """Return the ranks that have begun fewer collectives than others, by the newest report."""
    selector = fs.FileSelector(folder, allow_not_found=True)
    reports = [info for info in files.get_file_info(selector) if info.extension == "json"]
    late: set[int] = set()
    for info in sorted(reports, key=lambda info: info.base_name)[-1:]:
        with files.open_input_stream(info.path) as stream:
            groups = started_collectives(stream.readall().decode())
        for counts in groups:
            late |= {rank for rank, count in counts.items() if count < max(counts.values())}
    return sorted(late)
