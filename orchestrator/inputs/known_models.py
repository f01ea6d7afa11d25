"""Models under the names and identities by which a store knows them.

The record of each sweep says which models it ran: their names, places and identities. A later sweep
on the store goes on with these, so its rows and stages are found. This happens if the user writes
the path of a directory in another way, if keys of a config changed that change no number, and in
stores that an earlier version made, which named local models by another rule.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from core.models.facts import Linear, ModelFacts
from core.models.sources import EMBEDDED, ModelSource, config_dir

Recorded = Mapping[str, Any]
"""One model of an earlier sweep: the fields of its `ModelSource`, `row_name`, and `facts` if the
same code and libraries found them."""


def as_known(
    name: str, source: ModelSource, recorded: Sequence[Recorded]
) -> tuple[str, ModelSource]:
    """Return the name and the source of a model as the store knows them.

    Args:
        name: the name that the model has in a new store.
        source: the model as it was resolved.
        recorded: the models of all earlier sweeps of the store.
    """
    if source.revision is not None:
        return name, source  # The commit is the identity, and the name has one spelling.
    own = {source.identity, *source.aliases}
    same = {known["identity"] for known in recorded if own & identities(known)}
    # The former identity comes first: it is the one of the files as they are.
    identity = preferred(same, *source.aliases, source.identity)
    source = replace(source, identity=identity, aliases=tuple(sorted(own - {identity})))
    if source.name == EMBEDDED:
        return name, source
    place = place_of(source.path_or_repo)
    names = {
        known["row_name"]
        for known in recorded
        if known["name"] != EMBEDDED
        and known["revision"] is None
        and place_of(known["path_or_repo"]) == place
    }
    return preferred(names, source.name, name), source


def facts_record(source: ModelSource, facts: ModelFacts) -> dict[str, Any]:
    """Return the facts of a model as the record of a sweep holds them."""
    return {"config": config_hash(source), "sizes": asdict(facts)}


def recorded_facts(source: ModelSource, recorded: Sequence[Recorded]) -> ModelFacts | None:
    """Return the facts that an earlier sweep of the store found; None if there are none."""
    own = {source.identity, *source.aliases}
    found = [known["facts"] for known in recorded if known.get("facts") and own & identities(known)]
    config = config_hash(source) if found else ""
    for facts in found:
        if facts["config"] != config:
            continue
        sizes = {**facts["sizes"], "name": source.name}
        try:
            linears, routers = (
                tuple(Linear(**each) for each in sizes[name]) for name in ("linears", "routers")
            )
            return ModelFacts(**{**sizes, "linears": linears, "routers": routers})
        except (KeyError, TypeError):
            continue  # An earlier version found fewer facts.
    return None


def config_hash(source: ModelSource) -> str:
    """Return the SHA-256 of the file with a model's config."""
    return hashlib.sha256((config_dir(source) / "config.json").read_bytes()).hexdigest()


def identities(known: Recorded) -> set[str]:
    """Return all identities of a recorded model."""
    return {known["identity"], *known.get("aliases", ())}


def preferred(found: set[str], *order: str) -> str:
    """Return the first of `order` that is in `found`, else any of `found`, else the last."""
    first = next((each for each in order if each in found), None)
    return first or min(found, default=order[-1])


def name_in_results(source: ModelSource) -> str:
    """Return the name of a model in rows: the same for `m`, `./m` and the absolute path."""
    if source.revision is not None or source.name == EMBEDDED:
        return source.name
    place, here = place_of(source.path_or_repo), Path.cwd()
    return (place.relative_to(here) if place.is_relative_to(here) else place).as_posix()


def place_of(path: str) -> Path:
    """Return a path in one spelling; a link to a directory stays a directory of its own name."""
    absolute = Path(os.path.abspath(path))
    return absolute.parent.resolve() / absolute.name
