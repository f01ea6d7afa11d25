"""Checkpoints of half-done training: all ranks write them, any number of ranks resumes."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from core.parallel import Ranks
from orchestrator.store.store import Store
from orchestrator.trial.nodes import opened_once

logger = logging.getLogger(__name__)


@contextmanager
def opened_checkpoint(store: Store, ranks: Ranks, stage_id: str) -> Iterator[Path | None]:
    """The newest whole checkpoint of a stage as a local directory; None if it has none.

    Collective.
    """
    lead = ranks.rank == 0
    if not store.files.is_local:
        newest = store.checkpoints.latest(stage_id) if lead else None
        step = ranks.agree(newest and newest.name)
        if step is None:
            yield None
            return
        with opened_once(store.checkpoints.at(stage_id, step), ranks) as directory:
            yield directory
        return
    linked = store.checkpoints.linked(stage_id) if lead else None
    shared = ranks.agree(linked and str(linked))
    try:
        yield None if shared is None else Path(shared)
    finally:
        # No barrier: all ranks end their training together, long after they have read the files.
        if linked is not None:
            shutil.rmtree(linked, ignore_errors=True)


def save_checkpoint(
    store: Store, ranks: Ranks, stage_id: str, step: int, write: Callable[[Path], None]
) -> None:
    """Publish what all ranks write as the checkpoint of a step; remove older ones (collective).

    Args:
        store: the store of the stage.
        ranks: all ranks of the trial.
        stage_id: the training stage.
        step: the optimizer steps that are done.
        write: writes this rank's files into a directory.
    """
    checkpoint, record = store.checkpoints.at(stage_id, step), {"id": stage_id, "step": step}
    lead = ranks.rank == 0
    if store.files.is_local:
        # All ranks write into one directory of the disk that they share.
        aside = ranks.agree(str(store.scratch.make()) if lead else None)
        assert aside is not None
        write(Path(aside))
        ranks.barrier()
        if lead:
            try:
                checkpoint.publish(Path(aside), record)
            except FileNotFoundError:
                # Another sweep on this store has finished the stage and removed its checkpoints.
                logger.info("checkpoint %s of stage %s was taken away", step, stage_id)
    else:
        with store.scratch.directory() as directory:
            write(directory)
            part = checkpoint.upload(directory)
        parts = ranks.gather(part)
        if lead:
            checkpoint.publish_parts(parts, record)
    if lead:
        store.checkpoints.delete(stage_id, but=checkpoint.name)
    ranks.barrier()
