"""Does everything run on this GPU, does it equal the CPU, and how fast is it?

    python experiments/harnesses/check_gpu.py                    # everything, within 6 minutes
    python experiments/harnesses/check_gpu.py --parts prune      # again what failed
    python experiments/harnesses/check_gpu.py --device cpu       # a rehearsal, smaller shapes

Needs no network and nothing beside the project. Prints a table and writes `gpu.json` and
`gpu.html` into the out-dir. Each part runs in a process of its own and each case has a time limit:
failures and hangs are rows and do not stop the rest. Exit code 1 if a row failed or did not run.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gpu_check.findings import Row
from gpu_check.page import REHEARSAL, page
from gpu_check.parts import PARTS, SECONDS, SLOWNESS, Part
from gpu_check.processes import Settings, run_part
from gpu_check.sizes import SIZES
from gpu_check.table import summary, table

SIDE_BY_SIDE = 3
"""Parts that run at the same time on a GPU, if they time nothing."""


def main() -> int:
    """Run the chosen parts; print their rows and write them."""
    flags = parse()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    out, start = Path(os.path.expandvars(flags.out_dir.expanduser())).absolute(), time.monotonic()
    seconds = flags.seconds or SECONDS[flags.device]
    settings = Settings(
        flags.device,
        flags.sizes or ("gpu" if flags.device == "cuda" else "rehearsal"),
        out / "parts",
        deadline=start + seconds,
        patience=SLOWNESS[flags.device] * max(1.0, seconds / SECONDS[flags.device]),
        reference=flags.reference,
    )
    out.mkdir(parents=True, exist_ok=True)
    if flags.device == "cpu":
        print(REHEARSAL + "\n")
    rows: list[Row] = []
    try:
        for done in results([PARTS[name] for name in flags.parts], settings):
            print(table(done) + "\n", flush=True)
            rows += done
            write(out, rows, flags.device, time.monotonic() - start)
    except KeyboardInterrupt:
        print(f"stopped; {out}/gpu.html has the rows so far", file=sys.stderr)
        return 130
    print(f"{summary(rows)} in {time.monotonic() - start:.0f} s; see {out}/gpu.html")
    return int(any(row.status in ("failed", "not_run") for row in rows))


def interrupt(*_: object) -> None:
    """Handle a signal as Ctrl-C, also where a shell has told us to ignore that."""
    raise KeyboardInterrupt


def parse() -> argparse.Namespace:
    """Read the flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--device", choices=SECONDS, default="cuda")
    parser.add_argument("--out-dir", type=Path, default=Path("results/gpu_check"))
    parser.add_argument(
        "--seconds", type=float, help="limit of the whole check; those of cases grow too"
    )
    parser.add_argument("--sizes", choices=SIZES, help="sizes of the work, by default the device's")
    parser.add_argument("--reference", type=Path, help="checkout of the original SparseGPT code")
    flags = parser.parse_args()
    if flags.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            parser.error("--device cuda: torch sees no GPU here; --device cpu is a rehearsal")
    return flags


def results(parts: list[Part], settings: Settings) -> Iterator[list[Row]]:
    """Yield the rows of each part; on a GPU parts that time nothing run side by side."""
    together = [part for part in parts if not part.alone]
    count = min(SIDE_BY_SIDE, len(together)) if settings.device == "cuda" else 1
    threads = max(1, (os.cpu_count() or 1) // count) if count > 1 else None
    shared = dataclasses.replace(settings, threads=threads)
    with ThreadPoolExecutor(max(count, 1)) as pool:
        try:
            yield from pool.map(lambda part: run_part(part, shared), together)
        except BaseException:
            settings.stop.set()  # The pool waits for its threads, and they for their processes.
            raise
    yield from (run_part(part, settings) for part in parts if part.alone)


def write(out: Path, rows: list[Row], device: str, seconds: float) -> None:
    """Write the rows so far."""
    found = {
        "rehearsal": device != "cuda",
        "device": device,
        "written_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "processor_seconds": round(os.times().children_user + os.times().children_system, 1),
        "summary": summary(rows),
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    (out / "gpu.json").write_text(json.dumps(found, indent=1) + "\n")
    (out / "gpu.html").write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
