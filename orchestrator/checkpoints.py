"""Checkpoints of half-done training in the store: all ranks write, any number of them resumes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from core.parallel import Ranks
from orchestrator.nodes import opened_once
from orchestrator.store import Store


@contextmanager
def opened_checkpoint(store: Store, ranks: Ranks, stage_id: str) -> Iterator[Path | None]:
    """The newest whole checkpoint of a training stage as a local directory, None without one."""
    newest = ranks.agree(store.latest_checkpoint(stage_id) if ranks.rank == 0 else None)
    if newest is None:
        yield None
        return
    with opened_once(store, ranks, f"checkpoints/{stage_id}", newest) as directory:
        yield directory


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
            store.publish(folder, name, Path(aside), record)
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
