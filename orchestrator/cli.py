"""Command line of sweeps: the constants of a preset become defaults, every field a flag.

What takes seconds to import (torch, transformers, Ray) is imported after the flags are read.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from dataclasses import replace

from core.checks import BadInputError
from core.joint_config import DENSE
from core.methods import EVERY_METHOD, METHODS
from core.paths import local_path
from orchestrator import interruption
from orchestrator.block_flags import Reader
from orchestrator.config import REGIMES, SweepConfig
from orchestrator.failure import is_no_space, no_space
from orchestrator.flag_words import as_typed
from orchestrator.flags import parse_flags
from orchestrator.help import flags_of
from orchestrator.terminal import use_any_terminal
from orchestrator.unread_flags import explicit_flags, require_alone

DESCRIPTION = """\
How far can a language model be pruned, with which method, and how much does
fine-tuning win back?

    prune-sweep                                    # small model, this machine
    prune-sweep --models facebook/opt-125m --dry-run   # cells, memory, time
    prune-sweep --models facebook/opt-125m --regimes oneshot

The same command again goes on where it stopped and computes nothing twice.
Several values of a flag of calibration, prune, finetune or joint make cells of
each: --calibration.num-samples 16 64 128.
"""
FIRST = ("models", "methods", "regimes", "sparsities", "mask-structures", "out-dir", "dry-run")
FIRST += ("num-workers", "use-gpu")
"""Flags that the help shows first."""

Verdict = Callable[[SweepConfig], int]
"""A preset's judgement of finished rows: 0 if they agree with what a paper reports, else 1."""


class FullDiskError(Exception):
    """A sweep that ended because a disk is full; the message is one line."""


def prune_sweep() -> int:
    """Run the command `prune-sweep`, which has the same defaults as experiments/sweep_opt.py."""
    return main(SweepConfig(), DESCRIPTION)


def main(preset: SweepConfig, description: str, verdict: Verdict | None = None) -> int:
    """Run a preset with the flags of this process; return the exit code.

    0: every cell of the grid has its rows. 1: a cell failed or was not run, or `verdict` gave 1.
    2: bad input, told in one line before anything is written; a cluster that is too small is found
    later, but before any row is written. 130 and 143: stopped by Ctrl-C or SIGTERM.
    """
    return guarded(lambda: run(parse(preset, sys.argv[1:], description), verdict))


def guarded(work: Callable[[], int]) -> int:
    """Do the work of a script that runs sweeps; return its exit code.

    Bad input and a full disk end it with one line, and a signal ends all processes that it started,
    as `main` says. It leaves Ray at the end.
    """
    use_any_terminal()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    quiet_libraries()
    with interruption.handled():
        try:
            return work()
        except BadInputError as error:
            print(f"error: {as_typed(error, sys.argv[1:])}", file=sys.stderr)
            return 2
        except FullDiskError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            interruption.leave()
        finally:
            end_connection()


def parse(preset: SweepConfig, arguments: list[str], description: str) -> SweepConfig:
    """Read flags over a preset and refuse those that no cell would read.

    Raises:
        BadInputError: a refusal of one line.
    """
    width = max(map(len, EVERY_METHOD))
    methods = "".join(f"    {m.name:{width}}  {m.summary}\n" for m in EVERY_METHOD.values())
    text = f"{description.strip()}\n\nMethods:\n\n{methods}"
    choices = {"methods": EVERY_METHOD, "regimes": REGIMES, "joint.start": [DENSE, *METHODS]}

    def read(words: list[str]) -> SweepConfig:
        return at_places(parse_flags(SweepConfig, words, preset, text, FIRST, choices))

    if {"-h", "--help"} & set(arguments):
        return read(arguments)
    explicit = explicit_flags(arguments)
    if "from-row" in explicit:
        require_alone(explicit)
        return read(arguments)
    flags = list(flags_of(SweepConfig, preset))
    return Reader(read, flags, choices).config(arguments)


def at_places(config: SweepConfig) -> SweepConfig:
    """Return the settings with the paths that their output flags stand for."""
    output = config.output
    out_dir, published = local_path("out-dir", output.out_dir), output.published
    if published is not None:
        # Whoever reads the record may do so from another folder.
        published = os.path.abspath(local_path("published", published))
    return replace(config, output=replace(output, out_dir=out_dir, published=published))


def run(config: SweepConfig, verdict: Verdict | None = None) -> int:
    """Run what the settings ask for; return the exit code.

    Raises:
        FullDiskError: there is no space for results.
    """
    try:
        return run_with_space(config, verdict)
    except BadInputError:
        raise
    except Exception as error:
        if is_no_space(error):
            raise FullDiskError(no_space(config.output.out_dir, error)) from error
        raise


def run_with_space(config: SweepConfig, verdict: Verdict | None) -> int:
    """Run what the settings ask for; return the exit code."""
    if config.output.from_row is not None:
        from orchestrator.repeat import repeat_row

        return repeat_row(config, explicit_flags(sys.argv[1:]))
    # Before the imports of what plans a sweep: they take as long as Ray takes to start.
    begin_connection(config)
    from orchestrator.sweep import run_sweep

    code = run_sweep(config)
    if verdict is None or config.output.dry_run:
        return code
    return max(code, verdict(config))


def begin_connection(config: SweepConfig) -> None:
    """Begin to start Ray in the background if the sweep is likely to need it."""
    from orchestrator.cluster.connection import begin_early

    begin_early(config)


def end_connection() -> None:
    """Leave Ray if this process has joined or started it."""
    connection = sys.modules.get("orchestrator.cluster.connection")
    if connection is not None:
        connection.disconnect()


def quiet_libraries() -> None:
    """Keep banners and progress bars of other packages off the terminal."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    # Tune would run to its own end after Ctrl-C. Our handler is quicker and says how to continue.
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
