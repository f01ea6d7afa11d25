"""Several processes publish, drop and read the same stages of one store at the same time.

    python experiments/harnesses/faults/processes.py --seconds 60 --store s3://bucket/...

Two equal stages have equal files here, so a reader knows every byte that it may see. A stage may
be there, dropped or absent. Anything else is damage, and any exception is an error.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import random
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from orchestrator.store.store import Store

STAGES = ("a", "b", "c", "d")
BYTES = 200_000
"""Size of a stage's weights: large enough that a reader is often in the middle of them."""


def weights_of(stage: str) -> bytes:
    """Return the bytes that every process publishes as the weights of a stage."""
    return random.Random(stage).randbytes(BYTES)


def publish(store: Store, stage: str) -> str:
    """Publish a stage as a trial does."""
    with store.scratch.directory() as directory:
        (directory / "model.safetensors").write_bytes(weights_of(stage))
        (directory / "config.json").write_text("{}")
        record = {"id": stage, "kind": "prune", "metrics": {"perplexity": len(stage)}}
        store.stages.at(stage).publish(directory, record)
    return "published"


def drop(store: Store, stage: str) -> str:
    """Drop the weights of a stage."""
    store.stages.drop_weights(stage)
    return "dropped"


def read(store: Store, stage: str) -> str:
    """Check a stage, then read its weights as a trial does."""
    manifest, why = store.stages.at(stage).check(deep=True)
    if why is not None and manifest is not None:
        return f"damaged: {why}"
    if manifest is None or manifest.get("dropped"):
        return "absent"
    assert manifest["metrics"] == {"perplexity": len(stage)}
    try:
        with store.stages.at(stage).opened() as directory:
            data = (directory / "model.safetensors").read_bytes()
    except FileNotFoundError:
        # It was dropped meanwhile.
        again = store.stages.at(stage).manifest()
        return "dropped meanwhile" if again != manifest else "damaged: named and not there"
    same = hashlib.sha256(data).digest() == hashlib.sha256(weights_of(stage)).digest()
    return "read" if same else "damaged: other bytes"


def list_all(store: Store, _: str) -> str:
    """List the store as the start of a sweep does."""
    _, damaged = store.stages.inspect()
    return f"damaged: {[*damaged.values()]}" if damaged else "listed"


def work(root: str, seconds: float, seed: int) -> Counter[str]:
    """Do random things for a time; count the outcomes."""
    store, source, done = Store(root), random.Random(seed), Counter()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        act = source.choices((publish, drop, read, list_all), (3, 2, 4, 1))[0]
        try:
            outcome = act(store, source.choice(STAGES))
        except Exception as error:
            traceback.print_exc()
            outcome = f"error: {act.__name__}: {type(error).__name__}"
        done[outcome] += 1
    return done


def run(root: str, seconds: float, processes: int = 3) -> Counter[str]:
    """Let several processes work on one store; return the outcomes of all."""
    command = [sys.executable, __file__, "--store", root, "--seconds", str(seconds)]
    started = [
        subprocess.Popen([*command, "--seed", str(i)], stdout=subprocess.PIPE, text=True)
        for i in range(processes)
    ]
    total: Counter[str] = Counter()
    for process in started:
        said, _ = process.communicate(timeout=seconds + 120)
        assert process.returncode == 0, process.returncode
        total += Counter(json.loads(said))
    return total


def faulty(outcomes: Counter[str]) -> dict[str, int]:
    """Return the outcomes that must not be."""
    return {name: n for name, n in outcomes.items() if name.startswith(("damaged", "error"))}


def share(root: str, seconds: float = 60.0, allowed: tuple[str, ...] = ()) -> str:
    """Let three processes share a store; return a line with the outcomes.

    Args:
        root: the store.
        seconds: time for it.
        allowed: ends of the outcomes that count as no fault.
    """
    outcomes = run(root, seconds)
    told = ", ".join(f"{count:,} {name}" for name, count in sorted(outcomes.items()))
    faults = [name for name in faulty(outcomes) if not name.endswith(allowed or ("\0",))]
    assert not faults, told
    _, damaged = Store(root).stages.inspect()
    assert not damaged, damaged
    return told


def main() -> None:
    """Run several processes, or be one of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", help="a directory or URI; a temporary directory by default")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, help="be one process, and print what it did")
    flags = parser.parse_args()
    if flags.seed is not None:
        logging.basicConfig(level=logging.WARNING)
        print(json.dumps(work(flags.store, flags.seconds, flags.seed)))
        return
    with tempfile.TemporaryDirectory() as place:
        print(share(flags.store or str(Path(place) / "out"), flags.seconds))


if __name__ == "__main__":
    main()
