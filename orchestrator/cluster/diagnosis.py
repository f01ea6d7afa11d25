"""Diagnosis of a worker group that ended early, from the errors of its ranks."""

from __future__ import annotations

from dataclasses import dataclass

from ray.train import NCCLHangError, PreemptionError

from orchestrator.cluster.hang import describe_hang
from orchestrator.failure import is_no_space, is_out_of_memory, no_space, out_of_memory
from orchestrator.plan.job import Job

NO_ROOM = "WorkerGroupStartupTimeoutError"
"""Ray's error for a group that found no place in the cluster in time."""
NODE_LOST = "its node has died"
"""Ray's words for a worker that was lost with its node."""
NOT_STARTED = ("WorkerGroupStartupFailedError",)
"""Ray's error for a worker that was lost, or killed as it did not answer, during its start."""
STUCK = ("WorkerHealthCheckTimeoutError", "StuckError", "CollectiveTimeout", "Timed out waiting")
"""Messages by which Ray, gloo or we ourselves report a process that does not go on."""
LOST = (
    "WorkerHealthCheckFailedError",
    "PreemptionError",
    "ActorDiedError",
    "ActorUnavailableError",
    "Connection closed by peer",
    "Connection reset by peer",
    "remote process exited",
)
"""Messages by which Ray, gloo or nccl report a lost process."""


@dataclass(frozen=True)
class Failure:
    """Reason why a worker group ended."""

    line: str
    """Error for the row."""
    interrupted: bool = False
    """A lost process or a wait was the cause, not the work: a later run tries again by itself."""
    retry: bool = True
    """Starting again may help."""
    counts: bool = True
    """The group counts as one of the few that are started again."""
    whole_trial: bool = False
    """All cells of the trial would fail alike."""
    halts: bool = False
    """All trials would fail alike."""


def lost_node(error: BaseException) -> bool:
    """Return True if a node went away, announced or not, as spot instances do: no failure."""
    if isinstance(error, PreemptionError):
        return True
    causes = (getattr(error, "worker_failures", None) or {}).values()
    return any(NODE_LOST in str(cause) or getattr(cause, "preempted", False) for cause in causes)


def describe(job: Job, error: BaseException) -> Failure:
    """Return why a worker group ended, from the errors of its ranks.

    If one rank is lost, the others fail too because they wait for it. So we look for lost ranks
    before we look at other errors.
    """
    if isinstance(error, NCCLHangError):
        return Failure(describe_hang(error, job.store_root), interrupted=True)
    workers, timeout = job.workers, job.limits.timeout_seconds
    unplaced = getattr(error, "controller_failure", None)
    if type(unplaced).__name__ == NO_ROOM:
        line = (
            f"no room for {workers.num_workers} workers of {workers.threads} CPU cores"
            f"{' and a GPU' * (workers.device == 'cuda')} within {timeout:g} s "
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
        return Failure(out_of_memory(workers.memory_bytes), retry=False)
    if any(says(cause, STUCK) for cause in causes):
        line = (
            f"a worker was stuck for {timeout:g} s; if it was only slow, raise "
            "--timeout-seconds; run the same command again"
        )
        return Failure(line, interrupted=True)
    if any(says(cause, NOT_STARTED) for cause in causes):
        line = (
            "a worker was lost or did not answer while its group started "
            f"(--timeout-seconds {timeout:g}); run the same command again"
        )
        return Failure(line, interrupted=True)
    if any(says(cause, LOST) for cause in causes):
        gib = workers.memory_bytes / 2**30
        line = f"killed (possibly out of memory; estimated {gib:.1f} GiB a worker)"
        return Failure(line, interrupted=True)
    return Failure(f"{type(causes[0]).__name__}: {last_line(causes[0])}")


def says(error: BaseException, marks: tuple[str, ...]) -> bool:
    """Return True if one of the marks is in an error's type or text."""
    text = f"{type(error).__name__}: {error}"
    return any(mark in text for mark in marks)


def last_line(error: BaseException) -> str:
    """Return the last line of an error's text, which usually says most."""
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
