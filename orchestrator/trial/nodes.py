"""Ranks of one node read a model once: from the hub, from a slow disk, or from a remote store."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.parallel import Ranks
from orchestrator.store.store import Store

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def node_name() -> str:
    """Tells machines apart, also those that were given the same host name."""
    boot = BOOT_ID.read_text().strip() if BOOT_ID.exists() else ""
    return f"{socket.gethostname()} {boot}"


def leader(ranks: Ranks) -> int:
    """The first rank on this rank's node (collective)."""
    names = ranks.gather(node_name())
    return names.index(names[ranks.rank])


@contextmanager
def leader_first(ranks: Ranks) -> Iterator[None]:
    """The first rank of each node goes through the body, then its others (collective).

    What it downloads or reads is on the node's disk or in its memory when the others come.
    """
    leads = leader(ranks) == ranks.rank
    if not leads:
        ranks.barrier()
    try:
        yield
    finally:
        if leads:
            ranks.barrier()


@contextmanager
def opened_once(store: Store, ranks: Ranks, folder: str, name: str) -> Iterator[Path]:
    """A stage or checkpoint as a local directory, fetched once a node if the store is remote.

    Collective. All ranks leave together, so that no one reads what is already removed.
    """
    if store.is_local:
        with store.opened(folder, name) as directory:
            yield directory
        return
    first = leader(ranks)
    if first == ranks.rank:
        with store.opened(folder, name) as directory:
            ranks.gather(str(directory))
            try:
                yield directory
            finally:
                ranks.barrier()
        return
    directory = ranks.gather(None)[first]
    try:
        yield Path(directory)
    finally:
        ranks.barrier()
