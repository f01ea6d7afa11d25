"""Diagnosis of a worker group that ended early, from the errors of its ranks."""

from __future__ import annotations

from dataclasses import dataclass

from ray.train.v2.api.exceptions import PreemptionError

from orchestrator.plan.job import Job
from orchestrator.store.failure import is_no_space, is_out_of_memory, no_space, out_of_memory

STUCK = ("WorkerHealthCheckTimeoutError", "StuckError", "CollectiveTimeout", "Timed out waiting")
NODE_LOST = "its node has died"
"""How Ray says that a worker went with its node."""
NOT_STARTED = "WorkerGroupStartupFailedError"
"""How Ray says that a worker was lost, or killed for not answering, before it had its function."""
LOST = (
    "WorkerHealthCheckFailedError",
    "PreemptionError",
    "ActorDiedError",
    "ActorUnavailableError",
    "Connection closed by peer",
    "Connection reset by peer",
    "remote process exited",
)
"""How Ray, gloo and nccl say that a process was waited for in vain, or is no longer there."""


@dataclass(frozen=True)
class Failure:
    """Why a worker group ended."""

    line: str
    """For the row."""
    interrupted: bool = False
    """A lost process or a wait was at fault, not the work: a later run tries again by itself."""
    retry: bool = True
    """Whether starting again may help."""
    counts: bool = True
    """Whether it is one of the few times that starting again is tried."""
    whole_trial: bool = False
    """All cells of the trial would meet it."""
    halts: bool = False
    """All trials would."""


def lost_node(error: BaseException) -> bool:
    """Whether a node went away, as spot instances do, announced or not: no failure of the work."""
    if isinstance(error, PreemptionError):
        return True
    causes = (getattr(error, "worker_failures", None) or {}).values()
    return any(NODE_LOST in str(cause) or getattr(cause, "preempted", False) for cause in causes)


def describe(job: Job, error: BaseException) -> Failure:
    """Why a worker group ended, from the errors of its ranks.

    When one rank is lost the others fail too, waiting for it, so a lost rank is looked for first.
    """
    unplaced = getattr(error, "controller_failure", None)
    if type(unplaced).__name__ == "WorkerGroupStartupTimeoutError":
        line = (
            f"no room for {job.num_workers} workers of {job.threads} CPU cores"
            f"{' and a GPU' * (job.device == 'cuda')} within {job.timeout_seconds:g} s "
            "(--timeout-seconds): add nodes, or use fewer --num-workers or --cpus-per-worker"
        )
        return Failure(line, interrupted=True, retry=False, whole_trial=True)
    causes = [*(getattr(error, "worker_failures", None) or {}).values()] or [unplaced or error]
    full = next((cause for cause in causes if is_no_space(cause)), None)
    if full is not None:
        return Failure(no_space(job.store_root, full), halts=True)
    if lost_node(error):
        return Failure("a node was lost", interrupted=True, counts=False)
    if any(is_out_of_memory(cause) for cause in causes):
        return Failure(out_of_memory(job.memory_bytes), retry=False)
    if any(says(cause, STUCK) for cause in causes):
        line = (
            f"a worker was stuck for {job.timeout_seconds:g} s (--timeout-seconds); where it only "
            "was slow, allow more; run the same command again"
        )
        return Failure(line, interrupted=True)
    if any(says(cause, (NOT_STARTED,)) for cause in causes):
        line = (
            "a worker was lost or did not answer while its group started "
            f"(--timeout-seconds {job.timeout_seconds:g}); run the same command again"
        )
        return Failure(line, interrupted=True)
    if any(says(cause, LOST) for cause in causes):
        gib = job.memory_bytes / 2**30
        line = f"killed (possibly out of memory; estimated {gib:.1f} GiB a worker)"
        return Failure(line, interrupted=True)
    return Failure(f"{type(causes[0]).__name__}: {last_line(causes[0])}")


def says(error: BaseException, marks: tuple[str, ...]) -> bool:
    """Whether an error's type or text is one of some."""
    text = f"{type(error).__name__}: {error}"
    return any(mark in text for mark in marks)


def last_line(error: BaseException) -> str:
    """The line of an error's text that says most."""
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
