"""Command line of sweep scripts: a preset's constants become defaults, every field a flag."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable

from core.checks import BadInputError
from orchestrator import interruption
from orchestrator.config import SweepConfig, require_read
from orchestrator.failure import is_no_space, no_space
from orchestrator.flags import parse_flags
from orchestrator.repeat import repeat_row, require_alone


def parse(preset: SweepConfig, arguments: list[str], description: str) -> SweepConfig:
    """Reads flags over a preset and refuses those that no cell would read.

    Raises:
        ValueError: one line, also for what tyro itself refuses.
    """
    config = parse_flags(SweepConfig, arguments, preset, description)
    explicit = explicit_flags(arguments)
    if config.output.from_row is None:
        require_read(config, explicit)
    else:
        require_alone(explicit)
    return config


def explicit_flags(arguments: list[str]) -> set[str]:
    """Names of the flags on a command line."""
    flags = (a[2:].split("=")[0] for a in arguments if a.startswith("--"))
    return {flag.replace("_", "-").removeprefix("no-") for flag in flags}


Verdict = Callable[[SweepConfig], int]
"""What a preset says of finished rows: 0 where they are what a paper reports, else 1."""


def main(preset: SweepConfig, description: str, verdict: Verdict | None = None) -> int:
    """Runs a preset with the flags of this process; returns the exit code.

    0: every cell of the grid has its rows. 1: a cell failed or was not run, or `verdict` gave 1.
    2: bad input, said in one line before anything is written, or, where a cluster turns out to be
    too small, before any row is. 130 and 143: stopped by Ctrl-C or SIGTERM.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    quiet_libraries()
    config = preset
    with interruption.handled():
        try:
            # Ray and transformers take seconds to import, in which somebody may press Ctrl-C.
            from orchestrator.sweep import run_sweep

            config = parse(preset, sys.argv[1:], description)
            if config.output.from_row is not None:
                return repeat_row(config, explicit_flags(sys.argv[1:]))
            code = run_sweep(config)
            if verdict is None or config.output.dry_run:
                return code
            return max(code, verdict(config))
        except BadInputError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except Exception as error:
            if not is_no_space(error):
                raise
            print(f"error: {no_space(config.output.out_dir, error)}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            interruption.leave()


def quiet_libraries() -> None:
    """Keeps other packages' banners and bars off the terminal."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    # Tune would go on to its own end after Ctrl-C; ours is quicker and says how to continue.
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
