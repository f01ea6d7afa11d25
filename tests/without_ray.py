"""Commands of a process walk all trials and tasks in it, instead of on Ray."""

import pytest
from walked import run_missing

from orchestrator import cli, missing_work, sweep
from orchestrator.cluster.lone_stages import walk_alone
from orchestrator.cluster.sent_jobs import sent


def without_ray(patch: pytest.MonkeyPatch) -> None:
    """Let the commands of this process walk all trials and tasks here, without Ray."""
    patch.setattr(cli, "begin_connection", lambda config: None)
    patch.setattr(sweep, "run_missing", run_missing)
    patch.setattr(missing_work.connection, "connect", lambda: None)
    patch.setattr(missing_work, "run_alone", run_alone)


def run_alone(jobs, resources):
    """Run stages by themselves, as `orchestrator.cluster.lone_stages.run_alone` does on Ray."""
    for job in jobs:
        walk_alone(sent(job))
    return 0
