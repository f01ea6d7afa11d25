"""Jobs on their way to workers, which take none from a command that has other sources.

Two versions of the code may compute different numbers under one identity. So a worker whose
sources differ refuses its job before it unpacks it.
"""

from __future__ import annotations

import socket
from typing import Any

from orchestrator.failure import OtherSourcesError
from orchestrator.plan.job import Job
from orchestrator.results.versions import source_hash

SHOWN = 8
"""Digits of a hash that a message shows."""


def sent(job: Job) -> dict[str, Any]:
    """Return a job as its workers get it."""
    return {"sources": job.run.sources, "job": job.packed()}


def received(packed: dict[str, Any]) -> Job:
    """Return the job that `sent` packed.

    Raises:
        OtherSourcesError: this process runs other sources than the command.
    """
    theirs, mine = packed["sources"], source_hash()
    if theirs != mine:
        raise OtherSourcesError(
            f"workers on {socket.gethostname()} run other sources of core and orchestrator "
            f"({mine[:SHOWN]}) than the command ({theirs[:SHOWN]}): install the same version "
            "there, or start the command by `ray job submit --working-dir .` from its checkout, "
            "then run it again"
        )
    return Job.unpacked(packed["job"])
