"""Checkpoints of half-done stages: all ranks write them, any number of ranks resumes."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.ranks import Ranks
from orchestrator.store.checkpoints import Chain
from orchestrator.store.published import Published
from orchestrator.store.store import Store
from orchestrator.trial.nodes import opened_once

Write = Callable[[Path], None]
"""Writes this rank's files into a directory."""


@dataclass(frozen=True)
class Opened:
    """A checkpoint that can be read."""

    directory: Path
    """Its files, on this machine."""
    record: dict[str, Any]
    """Its manifest."""


@contextmanager
def opened_checkpoint(store: Store, ranks: Ranks, stage_id: str) -> Iterator[Opened | None]:
    """The newest whole checkpoint of a stage; None if it has none.

    Collective.
    """
    lead = ranks.rank == 0
    if not store.files.is_local:
        newest = store.checkpoints.latest(stage_id) if lead else None
        told = newest and ([part.name for part in newest.parts], newest.record)
        told = ranks.gather(told)[0]
        if told is None:
            yield None
            return
        names, record = told
        chain = Chain([store.checkpoints.at(stage_id, name) for name in names], record)
        with opened_once(chain, ranks) as directory:
            yield Opened(directory, record)
        return
    linked = store.checkpoints.linked(stage_id) if lead else None
    shared = ranks.gather(linked)[0]
    try:
        yield None if shared is None else Opened(*shared)
    finally:
        # No barrier: all ranks end their stage together, long after they have read the files.
        if linked is not None:
            shutil.rmtree(linked[0], ignore_errors=True)


def save_checkpoint(store: Store, ranks: Ranks, stage_id: str, step: int, write: Write) -> None:
    """Publish what all ranks write as the checkpoint of a step; remove older ones (collective).

    Args:
        store: the store of the stage.
        ranks: all ranks of the trial.
        stage_id: the training stage.
        step: the optimizer steps that are done.
        write: writes this rank's files into a directory.
    """
    checkpoint, record = store.checkpoints.at(stage_id, step), {"id": stage_id, "step": step}
    publish(store, ranks, checkpoint, record, write)
    if ranks.rank == 0:
        store.checkpoints.delete(stage_id, but=checkpoint.name)
    ranks.barrier()


def add_checkpoint(
    store: Store, ranks: Ranks, stage_id: str, record: dict[str, Any], write: Write
) -> dict[str, Any] | None:
    """Publish what all ranks write as an addition to an earlier checkpoint (collective).

    Args:
        store: the store of the stage.
        ranks: all ranks of the trial.
        stage_id: the pruning stage.
        record: the manifest to be: `step`, the blocks that are done; `facts`, what else numbers
            depend on; `after`, the result of an earlier call, or None.
        write: writes this rank's files into a directory.

    Returns:
        The `after` of the next addition. An equal one that another sweep saved at this step takes
        the place of ours. None if what stands there differs in its facts, or is gone.
    """
    step, part = record["step"], ranks.gather(uuid.uuid4().hex)[0]
    checkpoint = store.checkpoints.at(stage_id, step)
    publish(store, ranks, checkpoint, {"id": stage_id, "part": part, **record}, write)
    after, found = None, checkpoint.manifest() if ranks.rank == 0 else None
    if found is not None and found.get("facts") == record["facts"]:
        after = {"step": step, "part": found["part"]}
    return ranks.gather(after)[0]


def publish(
    store: Store, ranks: Ranks, checkpoint: Published, record: dict[str, Any], write: Write
) -> None:
    """Publish what all ranks write, unless the same is there already (collective)."""
    lead = ranks.rank == 0
    if store.files.is_local:
        # All ranks write into one directory of the disk that they share.
        aside = ranks.agree(str(store.scratch.make()) if lead else None)
        assert aside is not None
        write(Path(aside))
        ranks.barrier()
        if lead:
            checkpoint.publish(Path(aside), record)
        return
    upload = ranks.gather(uuid.uuid4().hex)[0]
    with store.scratch.directory() as directory:
        write(directory)
        part = checkpoint.upload(directory, upload)
    parts = ranks.gather(part)
    if lead:
        checkpoint.publish_parts(parts, upload, record)
