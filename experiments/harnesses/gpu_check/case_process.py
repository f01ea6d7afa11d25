"""The program of a part's process: runs its cases and writes an event before and after each.

    python -m gpu_check.case_process SETTINGS.json

The settings name the module, the place, the cases that are done already, and the file of events.
"""

from __future__ import annotations

import gc
import importlib
import json
import sys
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gpu_check.findings import Finding, Skipped
from gpu_check.sizes import SIZES, Place

BROKEN_DEVICE = 3
"""Exit code after an error that leaves the device unusable for this process."""


def main() -> None:
    """Run the cases that are not done yet."""
    settings = json.loads(Path(sys.argv[1]).read_text())
    folder, reference = Path(settings["folder"]), settings["reference"]
    folder.mkdir(parents=True, exist_ok=True)
    place = Place(
        settings["device"],
        SIZES[settings["sizes"]],
        folder,
        Path(reference) if reference else None,
    )
    cases = importlib.import_module(settings["module"]).CASES
    with open(settings["events"], "a", buffering=1) as events:

        def tell(**event: Any) -> None:
            events.write(json.dumps(event) + "\n")

        tell(cases=list(cases))
        for name, case in cases.items():
            if name in settings["done"]:
                continue
            tell(start=name)
            start, broken = time.monotonic(), False
            status, finding, broken = outcome(case, place)
            tell(end=name, status=status, seconds=time.monotonic() - start, **asdict(finding))
            if broken:
                sys.exit(BROKEN_DEVICE)
            release()


def outcome(case: Any, place: Place) -> tuple[str, Finding, bool]:
    """Run a case; return its status, its finding, and True if the device is unusable now."""
    try:
        finding = case(place)
    except Skipped as reason:
        return "skipped", Finding(str(reason)), False
    except Exception as error:
        traceback.print_exc()
        message = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        return "failed", Finding(message), "CUDA error" in str(error)
    if finding.broken:
        finding.text = f"{'; '.join(finding.broken)} ({finding.text})"
        return "failed", finding, False
    return "passed", finding, False


def release() -> None:
    """Give the memory of a case back."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
