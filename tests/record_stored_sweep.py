"""A small sweep of the embedded model, and the archive of what it left in its out-dir.

    python tests/record_stored_sweep.py

runs the sweep through Ray and writes tests/recorded/stored_sweep.tar.xz. Run it only when the
numbers of a sweep are meant to change; the old archive says what they were. The archive holds:

    out/              the store, without weights, Ray's own files and the page
    names.txt         every file of the store while it had its weights, without Ray's own
    kept.json         hashes of the files of every stage that had weights
    rows.json         the rows as the store returns them
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from orchestrator.store.store import Store

TESTS = Path(__file__).resolve().parent
SCRIPT = TESTS.parent / "experiments" / "sweep_opt.py"
ARCHIVE = TESTS / "recorded" / "stored_sweep.tar.xz"
TASK_FILES = ("tiny_choice.yaml", "tiny_choice.jsonl")
FLAGS = [
    *("--methods", "magnitude", "sparsegpt", "--regimes", "oneshot", "finetune"),
    *("--sparsities", "0.5", "--mask-structures", "2:4", "--dtype", "float32"),
    *("--calibration.num-samples", "4", "--calibration.seq-len", "64"),
    *("--finetune.text", "embedded:validation", "--finetune.tokens", "1024"),
    *("--finetune.seq-len", "64", "--finetune.batch-tokens", "256"),
    *("--finetune.objective", "next_token", "--finetune.lr", "3e-4"),  # The defaults of then.
    *("--eval.seq-len", "64", "--eval.max-windows", "4"),
    *("--cpus-per-worker", "1", "--out-dir", "out"),
]
TASK_FLAGS = ["--keep", "final", "--eval.tasks", TASK_FILES[0]]
"""Tasks start from kept weights, so the run keeps them; the recorder drops them afterwards."""


def run(place: Path) -> subprocess.CompletedProcess[str]:
    """Run the sweep in a directory, with a home of its own; its out-dir is `place/out`."""
    for name in TASK_FILES:
        (place / name).write_bytes((TESTS / "recorded" / name).read_bytes())
    (place / "home").mkdir()
    environment = {
        **os.environ,
        "HOME": str(place / "home"),
        "PYTHONPATH": str(TESTS.parent),
        "RAY_USAGE_STATS_ENABLED": "0",
        "HF_HUB_OFFLINE": "1",
    }
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, str(SCRIPT), *FLAGS, *TASK_FLAGS]
    return subprocess.run(
        command, cwd=place, env=environment, capture_output=True, text=True, timeout=500
    )


RANDOM_FOLDER = re.compile("(?<=^stages/[0-9a-f]{32})/[0-9a-f]{32}/")


def file_names(out: Path) -> list[str]:
    """Return the relative names of a store's files, without those that Ray writes.

    A stage's files lie in a folder with a random name, which is left out. They had none before.
    """
    files = [path.relative_to(out) for path in out.rglob("*") if path.is_file()]
    names = [RANDOM_FOLDER.sub("/", str(path)) for path in files if path.parts[0] != "ray"]
    return sorted(names)


def kept_files(store: Store) -> dict[str, dict[str, str]]:
    """Return the SHA-256 of every file of every stage that has weights, by stage."""
    stages = store.stages.manifests().items()
    return {
        stage: {name: entry["sha256"] for name, entry in manifest["files"].items()}
        for stage, manifest in sorted(stages)
        if manifest["files"]
    }


def neutral(text: str, place: Path) -> str:
    """Remove the directories of this machine from a text."""
    return text.replace(f"{TESTS.parent}/", "").replace(f"{place}/", "")


def pack(place: Path, archive: Path) -> None:
    """Drop the weights of the store in `place/out`, and write the archive."""
    out = place / "out"
    store = Store(str(out))
    names = file_names(out)
    kept = kept_files(store)
    for stage in kept:
        store.stages.drop_weights(stage)
    texts = {
        "names.txt": "".join(f"{name}\n" for name in names),
        "kept.json": json.dumps(kept, indent=1),
        "rows.json": json.dumps(store.rows.read(), indent=1),
    }
    members = {name: neutral(text, place).encode() for name, text in texts.items()}
    for name in file_names(out):
        if name == "curves.html":
            continue
        data = (out / name).read_bytes()
        if name.endswith(".json"):
            data = neutral(data.decode(), place).encode()
        members[f"out/{name}"] = data
    with tarfile.open(archive, "w:xz", preset=9) as tar:
        for name, data in sorted(members.items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


def main() -> None:
    """Run the sweep and write its archive."""
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        done = run(place)
        print(done.stdout, done.stderr)
        done.check_returncode()
        pack(place, ARCHIVE)
    print(f"{ARCHIVE.relative_to(TESTS.parent)}: {ARCHIVE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
