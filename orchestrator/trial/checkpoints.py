"""Checkpoints of half-done training in the store: all ranks write, any number of them resumes."""

from __future__ import annotations

import logging
import os
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
    """The newest whole checkpoint of a training stage as a local directory, None without one."""
    lead = ranks.rank == 0
    if not store.is_local:
        newest = ranks.agree(store.latest_checkpoint(stage_id) if lead else None)
        if newest is None:
            yield None
            return
        with opened_once(store, ranks, f"checkpoints/{stage_id}", newest) as directory:
            yield directory
        return
    linked = ranks.agree(linked_checkpoint(store, stage_id) if lead else None)
    try:
        yield None if linked is None else Path(linked)
    finally:
        # No barrier: training ends on all ranks together, long after they have read it.
        if lead and linked is not None:
            shutil.rmtree(linked, ignore_errors=True)


def linked_checkpoint(store: Store, stage_id: str) -> str | None:
    """The files of the newest whole checkpoint under a name of their own.

    Another sweep on this store removes checkpoints when it gets further; not what is being read.
    """
    folder = f"checkpoints/{stage_id}"
    while (newest := store.latest_checkpoint(stage_id)) is not None:
        manifest = store.manifest(folder, newest)
        directory = store.shared_scratch()
        try:
            for relative in manifest["files"] if manifest is not None else ():
                link(store.join(folder, newest, relative), directory / relative)
            if manifest is not None:
                return str(directory)
        except FileNotFoundError:
            pass
        shutil.rmtree(directory, ignore_errors=True)
    return None


def link(source: str, target: Path) -> None:
    """A second name for a file; a copy where the disk knows no such thing."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)


def save_checkpoint(
    store: Store, ranks: Ranks, stage_id: str, step: int, write: Callable[[Path], None]
) -> None:
    """Publishes a training checkpoint that all ranks wrote, and drops older ones."""
    folder, name, record = f"checkpoints/{stage_id}", str(step), {"id": stage_id, "step": step}
    lead = ranks.rank == 0
    if store.is_local:
        # All ranks write into one directory of the disk they share.
        aside = ranks.agree(str(store.shared_scratch()) if lead else None)
        assert aside is not None
        write(Path(aside))
        ranks.barrier()
        if lead:
            try:
                store.publish(folder, name, Path(aside), record)
            except FileNotFoundError:
                # Another sweep on this store has finished the stage and cleaned up after it.
                logger.info("checkpoint %s/%s was taken away", folder, name)
    else:
        with store.scratch() as directory:
            write(directory)
            part = store.upload_all(folder, name, directory)
        parts = ranks.gather(part)
        if lead:
            store.publish_parts(folder, name, parts, record)
    if lead:
        store.delete_checkpoints(stage_id, but=name)
    ranks.barrier()
