"""Acts on a store that `kills.py` kills at every file operation. Another act is one more entry.

Nothing is computed here: the files of a stage hold its name.
"""

from __future__ import annotations

import functools
import runpy
from pathlib import Path
from typing import Any

from faults.kills import Act
from orchestrator.store.claims import Claims
from orchestrator.store.store import Store

TESTS = Path(__file__).parents[3] / "tests"


def publish(store: Store, stage: str = "a", weights: bool = True) -> None:
    """Publish a stage as a trial does."""
    with store.scratch.directory() as directory:
        for name in ("model.safetensors", "config.json") if weights else ():
            (directory / name).write_text(f"{name} of {stage}")
        store.stages.at(stage).publish(directory, {"id": stage, "metrics": {"x": stage}})


def evaluate(store: Store) -> None:
    """Publish a stage without weights."""
    publish(store, "e", weights=False)


def drop(store: Store) -> None:
    """Drop the weights of a stage."""
    store.stages.drop_weights("a")


def dropped(store: Store) -> None:
    """Prepare a stage whose weights were dropped."""
    publish(store)
    drop(store)


def older(store: Store) -> None:
    """Prepare a stage with its files beside the manifest, as older versions have it."""
    folder = Path(store.files.path, "stages", "a")
    folder.mkdir(parents=True)
    for name in ("model.safetensors", "config.json"):
        (folder / name).write_text(f"{name} of a")
    files = store.files.upload_all(folder, "stages", "a")
    store.stages.at("a").write_manifest({"id": "a", "metrics": {"x": "a"}, "files": files})


def damaged(store: Store) -> None:
    """Prepare a stage that is damaged, beside one that is whole."""
    publish(store, "b")
    publish(store)
    next(Path(store.files.path, "stages", "a").rglob("model.safetensors")).write_text("half")


def mend(store: Store) -> None:
    """Set damaged stages aside and compute them again."""
    store.stages.manifests()
    publish(store)


def show_stages(store: Store) -> dict[str, Any]:
    """Return the metrics and files of all stages that are whole."""
    whole, _ = store.stages.inspect()
    shown = {}
    for stage, manifest in whole.items():
        files = None
        if not manifest.get("dropped"):
            with store.stages.at(stage).opened() as directory:
                files = {name: (directory / name).read_text() for name in manifest["files"]}
        shown[stage] = (manifest["metrics"], files)
    return shown


def save(store: Store, step: int) -> None:
    """Save a checkpoint and remove the earlier ones, as training does."""
    with store.scratch.directory() as directory:
        (directory / "rank-0.safetensors").write_text(f"step {step}")
        store.checkpoints.at("a", step).publish(directory, {"id": "a", "step": step})
    store.checkpoints.delete("a", but=str(step))


def show_checkpoint(store: Store) -> str | None:
    """Return what a resumed round reads."""
    newest = store.checkpoints.latest("a")
    if newest is None:
        return None
    with newest.opened() as directory:
        return (directory / "rank-0.safetensors").read_text()


def finish(store: Store) -> None:
    """Publish a stage and remove its checkpoints."""
    publish(store)
    store.checkpoints.delete("a")


def put_rows(store: Store) -> None:
    """Replace one row and add another, as a trial does."""
    store.rows.put("k", {"cell_id": "k", "perplexity": 2.0})
    store.rows.put("l", {"cell_id": "l", "perplexity": 3.0})


def claim(store: Store) -> None:
    """Claim a stage that nobody alive holds, and give it up."""
    claims = Claims(store.files)
    assert claims.take("a") is None, "a claim of a killed process is in the way"
    claims.close()
    assert not store.files.names("claims")


@functools.cache
def stand_in() -> dict[str, Any]:
    """Return the walk whose stages compute nothing."""
    return runpy.run_path(str(TESTS / "stand_in_walk.py"))


def walk(store: Store) -> None:
    """Walk a whole trial, which publishes stages and writes rows."""
    made = stand_in()
    grid = {"sparsities": (0.5,), "methods": ("magnitude",), "regimes": ("finetune",)}
    made["walk"](made["job_of"](store.root, **grid), lambda stage: None, store)


def show_walk(store: Store) -> Any:
    """Return the rows of a walk, and its stages."""
    rows = store.rows.read()
    return {k: (r["status"], r["perplexity"]) for k, r in rows.items()}, show_stages(store)


def collect(store: Store) -> None:
    """Write the table of all rows, as the end of a sweep does."""
    from orchestrator.results.gathering import gather
    from orchestrator.results.parquet import write_parquet

    write_parquet(gather(store.rows.read(), {}, {}), *table_of(store))


def table_of(store: Store) -> tuple[str, Any]:
    """Return the path of the table, and the file system whose operations are counted."""
    return store.files.join("results.parquet"), store.files.filesystem


def show_table(store: Store) -> int | None:
    """Return the number of rows of the table, which is whole or not there."""
    from orchestrator.results.parquet import read_rows

    return len(read_rows(*table_of(store))) if store.files.exists("results.parquet") else None


ACTS = {
    "publish": Act(publish, show_stages),
    "publish again": Act(publish, show_stages, dropped),
    "evaluate": Act(evaluate, show_stages, publish),
    "drop": Act(drop, show_stages, publish),
    "drop older": Act(drop, show_stages, older),
    "mend": Act(mend, show_stages, damaged, steps=True, mends=True),
    "save": Act(lambda s: save(s, 2), show_checkpoint, lambda s: save(s, 1)),
    "finish": Act(finish, show_stages, lambda s: save(s, 1)),
    "rows": Act(put_rows, lambda s: s.rows.read(), lambda s: s.rows.put("k", {}), steps=True),
    "claim": Act(claim, show_stages),
    "collect": Act(collect, show_table, walk),
    "walk": Act(walk, show_walk, steps=True),
}
