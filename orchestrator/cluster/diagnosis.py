"""Diagnosis of a worker group that ended early, from the errors of its ranks.

Types tell the errors apart. Each error is looked at together with all that it wraps.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ray.exceptions import (
    NodeDiedError,
    OutOfDiskError,
    OutOfMemoryError,
    OwnerDiedError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)
from ray.train import NCCLHangError, PreemptionError, TrainingFailedError

from orchestrator.cluster.hang import describe_hang
from orchestrator.cluster.lost_peer import peer_is_gone, peer_is_late
from orchestrator.cluster.restarts import FAILURES, LOST_NODES, NETWORK, SPOT, Patience
from orchestrator.cluster.room import NoRoomError
from orchestrator.cluster.train_internals import (
    CollectiveTimeoutError,
    InsufficientClusterResourcesError,
    WorkerGroupStartupFailedError,
    WorkerHealthCheckFailedError,
    WorkerHealthCheckTimeoutError,
)
from orchestrator.failure import (
    DamagedTokensError,
    OtherSourcesError,
    StuckError,
    chain,
    is_network,
    is_no_space,
    is_out_of_memory,
    last_line,
    no_space,
    out_of_memory,
)
from orchestrator.plan.job import Job

NODE_LOST = "its node has died"
"""Ray's words, in its error for a dead actor, for a worker that was lost with its node."""
STUCK = (WorkerHealthCheckTimeoutError, CollectiveTimeoutError, StuckError)
"""Errors by which Ray or we ourselves report a process that does not go on."""
LOST = (RayActorError, WorkerCrashedError, OwnerDiedError, WorkerHealthCheckFailedError)
"""Errors by which Ray reports a lost process."""
WRAPPERS = (RayTaskError, TrainingFailedError)
"""Errors of Ray that only hold another one."""


@dataclass(frozen=True)
class Failure:
    """Reason why a worker group ended."""

    line: str
    """Error for the row."""
    interrupted: bool = False
    """A lost process or a wait was the cause, not the work: a later run tries again by itself."""
    patience: Patience | None = FAILURES
    """Limit and pauses of starting again; None if that cannot help."""
    whole_trial: bool = False
    """All cells of the trial would fail alike."""
    halts: bool = False
    """All trials would fail alike."""
    often: str = ""
    """End of the line where the group has failed at one place too often; it holds `{times}`."""


def describe(job: Job, error: BaseException) -> Failure:
    """Return why a worker group ended, from the errors of its ranks.

    If one rank is lost or fails, the others fail too because they wait for it. So errors that only
    tell of another rank come last.
    """
    found = [*chain(error)]
    if isinstance(error, NCCLHangError):
        return Failure(describe_hang(error, job.store_root), interrupted=True)
    outdated = first(found, OtherSourcesError)
    if outdated is not None:
        return Failure(last_line(outdated), halts=True)
    if (tokens := first(found, DamagedTokensError)) is not None:
        return Failure(last_line(tokens), interrupted=True)
    room = first(found, (NoRoomError, InsufficientClusterResourcesError))
    if room is not None:
        line = f"no room in the cluster: {last_line(room)}; add nodes and run the same command"
        return Failure(line, interrupted=True, patience=None, whole_trial=True)
    if is_no_space(error) or first(found, OutOfDiskError):
        return Failure(no_space(job.store_root, error), halts=True)
    return (
        of_lost_node(job, found)
        or of_memory(job, error, found)
        or of_lost_worker(job, found)
        or of_work(job, error, found)
    )


def of_lost_node(job: Job, found: list[BaseException]) -> Failure | None:
    """Return the failure of a group that lost a node, announced or not; None if it lost none."""
    if any(isinstance(each, PreemptionError) or is_preempted(each) for each in found):
        often = ", {times} times at this place; run the same command again"
        return Failure("a spot node was lost", interrupted=True, patience=SPOT, often=often)
    if not any(isinstance(each, NodeDiedError) or died_with_node(each) for each in found):
        return None
    often = (
        ", {times} times while this cell ran: the cell may use up the memory of its node "
        f"(estimated {gib(job)} a worker); use a larger node, then --retry-failed"
    )
    return Failure("a node was lost", patience=LOST_NODES, often=often)


def of_memory(job: Job, error: BaseException, found: list[BaseException]) -> Failure | None:
    """Return the failure of a group that ran out of memory; None if it did not."""
    line = out_of_memory(job.workers.memory_bytes)
    if first(found, OutOfMemoryError):
        # Ray ended the worker as its node had no memory left; others may have taken it.
        return Failure(line, interrupted=True)
    return Failure(line, patience=None) if is_out_of_memory(error) else None


def of_lost_worker(job: Job, found: list[BaseException]) -> Failure | None:
    """Return the failure of a group whose worker is stuck or lost, by Ray's word; None if not."""
    timeout = job.limits.timeout_seconds
    if first(found, STUCK):
        return stuck(job)
    if first(found, WorkerGroupStartupFailedError):
        line = (
            "a worker was lost or did not answer while its group started "
            f"(--timeout-seconds {timeout:g}); run the same command again"
        )
        return Failure(line, interrupted=True)
    return killed(job) if first(found, LOST) else None


def of_work(job: Job, error: BaseException, found: list[BaseException]) -> Failure:
    """Return the failure of a group in which a rank raised an error."""
    own = [e for e in ends(error) if not (peer_is_gone(e) or peer_is_late(e))]
    if own:
        line = f"{type(own[0]).__name__}: {last_line(own[0])}"
        if any(map(is_network, chain(own[0]))):
            return Failure(f"the network failed: {line}", interrupted=True, patience=NETWORK)
        return Failure(line)
    return killed(job) if any(map(peer_is_gone, found)) else stuck(job)


def killed(job: Job) -> Failure:
    """Return the failure of a group that lost a worker."""
    line = f"killed (possibly out of memory; estimated {gib(job)} a worker)"
    return Failure(line, interrupted=True)


def stuck(job: Job) -> Failure:
    """Return the failure of a group in which somebody waited in vain."""
    line = (
        f"a worker was stuck for {job.limits.timeout_seconds:g} s; if it was only slow, raise "
        "--timeout-seconds; run the same command again"
    )
    return Failure(line, interrupted=True)


def gib(job: Job) -> str:
    """Return the estimated memory of a worker in words."""
    return f"{job.workers.memory_bytes / 2**30:.1f} GiB"


def first(
    found: Iterable[BaseException], kinds: type[BaseException] | tuple[type[BaseException], ...]
) -> BaseException | None:
    """Return the first error of some types; None if there is none."""
    return next((each for each in found if isinstance(each, kinds)), None)


def ends(error: BaseException) -> list[BaseException]:
    """Return the errors that the ranks raised, without the errors of Ray that hold them."""
    held = [*(getattr(error, "worker_failures", None) or {}).values()]
    if not held and isinstance(error, WRAPPERS):
        one = getattr(error, "controller_failure", None) or getattr(error, "cause", None)
        held = [one] if isinstance(one, BaseException) else []
    return [end for each in held for end in ends(each)] or [error]


def is_preempted(error: BaseException) -> bool:
    """Return True for a worker whose node was announced to go, as spot nodes are."""
    return isinstance(error, RayActorError) and error.preempted


def died_with_node(error: BaseException) -> bool:
    """Return True for a worker that was lost with its node; Ray says so only in words."""
    return isinstance(error, RayActorError) and NODE_LOST in str(error)
