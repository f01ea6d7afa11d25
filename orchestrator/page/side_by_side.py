"""Settings in which several sweeps differ; the page compares their cells line by line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.results.record import Record

LEFT_OUT = ("output.",)
"""Prefixes of settings that say where results go; they change no result."""


def differing_settings(records: Sequence[Record | None]) -> list[tuple[str, list[str]]]:
    """Return settings, inputs and versions that are not the same in all sweeps."""
    flat = [flattened(settings_of(record)) if record else {} for record in records]
    names = dict.fromkeys(name for settings in flat for name in settings)
    rows = [(name, [settings.get(name, "not recorded") for settings in flat]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def settings_of(record: Record) -> dict[str, Any]:
    """Return all facts of a record that may change numbers."""
    models = record.get("models", {})
    identities = {name: inputs["identity"] for name, inputs in models.items()}
    return {**record["config"], "model": identities, "versions": record.get("versions", {})}


def flattened(settings: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Return nested settings as `group.name`, values as text."""
    found: dict[str, str] = {}
    for name, value in settings.items():
        path = f"{above}{name}"
        if isinstance(value, Mapping):
            found |= flattened(value, f"{path}.")
        elif not path.startswith(LEFT_OUT):
            found[path] = value if isinstance(value, str) else json.dumps(value)
    return found
