"""Reads that happen once on each node: from the hub, a slow disk, or a remote store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.ranks import Ranks
from orchestrator.store.checkpoints import Chain
from orchestrator.store.owners import Place
from orchestrator.store.published import Published


def node_name() -> str:
    """Return a name that differs between machines, even if they have the same host name."""
    place = Place.current()
    return f"{place.host} {place.boot}"


def leader(ranks: Ranks) -> int:
    """Return the first rank on this rank's node (collective)."""
    names = ranks.gather(node_name())
    return names.index(names[ranks.rank])


@contextmanager
def leader_first(ranks: Ranks) -> Iterator[None]:
    """Let the first rank of each node run the body before the node's other ranks (collective).

    The others find on the node's disk, or in its memory, what the first has downloaded or read.
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
def opened_once(published: Published | Chain, ranks: Ranks) -> Iterator[Path]:
    """A stage or checkpoint as a local directory, fetched once a node if the store is remote.

    Collective. All ranks leave together, so that no rank reads what is already removed.
    """
    if published.files.is_local:
        with published.opened() as directory:
            yield directory
        return
    first = leader(ranks)
    if first == ranks.rank:
        with published.opened() as directory:
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
