"""Looks at sweeps: live in a browser, as figures and tables for a paper, or one cell as a model.

    python -m orchestrator.browse OUT_DIR [OUT_DIR ...]
    python -m orchestrator.browse OUT_DIR --export
    python -m orchestrator.browse OUT_DIR --get CELL_ID DEST [--format compressed-tensors]

An out-dir is a local directory or a URI. Nothing is written there but what `--export` makes.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from core.checks import BadInputError, require
from orchestrator.flags import parse_flags
from orchestrator.page.watched import Watched, watch_all

ModelFormat = Literal["huggingface", "compressed-tensors"]
FigureFormat = Literal["svg", "pdf", "png"]


@dataclass(frozen=True)
class BrowseConfig:
    """Look at sweeps in a browser, also while they run; or export figures, tables and models."""

    out_dirs: tyro.conf.Positional[tuple[str, ...]]
    """Directories or URIs of sweeps (their --out-dir); several are shown side by side."""
    port: int | None = None
    """Port on this machine's loopback; 8790 by default, or any if that is taken."""
    export: bool = False
    """Write figures and tables (CSV, Markdown, LaTeX) instead, into OUT_DIR/export."""
    export_dir: str | None = None
    """Another directory for --export."""
    figures: tuple[FigureFormat, ...] | None = None
    """Figure formats of --export: svg, pdf, png; all by default. Needs `pip install -e '.[export]'`
    and a Chromium or Chrome."""
    get: tuple[str, str] | None = None
    """CELL_ID DEST: write a cell's pruned model to DEST as a Hugging Face directory. The first
    letters of the id are enough."""
    format: ModelFormat | None = None
    """Form of --get: huggingface (default), or compressed-tensors, whose files are smaller by about
    the sparsity. Needs `pip install -e '.[compressed]'`."""

    def __post_init__(self) -> None:
        require(bool(self.out_dirs), "out-dirs", "(empty)", "name the --out-dir of a sweep")
        both = self.export and self.get is not None
        require(not both, "export", "has no effect", "with --get; run the command twice")
        for flag, value, needs, given in (
            ("export-dir", self.export_dir, "export", self.export),
            ("figures", self.figures, "export", self.export),
            ("format", self.format, "get", self.get is not None),
        ):
            require(value is None or given, flag, "has no effect", f"only --{needs} reads it")
        looks = not self.export and self.get is None
        require(self.port is None or looks, "port", "has no effect", "nothing is served")
        if self.port is not None:
            require(0 <= self.port < 65536, "port", self.port, "use 1 to 65535, or 0 for any")


def main(arguments: list[str] | None = None) -> int:
    """Does what the flags say; returns the exit code (2: bad input, said in one line)."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    try:
        given = sys.argv[1:] if arguments is None else arguments
        config = parse_flags(BrowseConfig, given, description=__doc__)
        sweeps = watch_all(config.out_dirs)
        if config.get is not None:
            return get_model(sweeps, *config.get, config.format or "huggingface")
        if config.export:
            return export_all(sweeps, config)
        return look(sweeps, config.port)
    except BadInputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def look(sweeps: list[Watched], port: int | None) -> int:
    """Serves the page until Ctrl-C."""
    from orchestrator.page.server import serve

    with serve(sweeps, port) as server:
        for sweep in sweeps:
            print(f"{sweep.name}: {sweep.progress()['note']}")
        print(f"open {server.url} (this machine only; Ctrl-C ends)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass
    return 0


def export_all(sweeps: list[Watched], config: BrowseConfig) -> int:
    """Writes figures and tables of each out-dir."""
    from orchestrator.publish.export import DEFAULT_FIGURES, export, require_figures

    if config.figures is not None:
        require_figures(config.figures)
    for sweep in sweeps:
        local = sweep.store.files.is_local
        remedy = "is a URI; name a local directory with --export-dir"
        require(local or config.export_dir is not None, "export", sweep.name, remedy)
        directory = Path(config.export_dir or sweep.store.files.join("export"))
        if config.export_dir is not None and len(sweeps) > 1:
            directory /= f"{sweeps.index(sweep) + 1}"
        figures = config.figures or DEFAULT_FIGURES
        for path in export(sweep.rows(), directory, figures, sweep.published):
            print(path)
    return 0


def get_model(sweeps: list[Watched], cell_id: str, destination: str, form: ModelFormat) -> int:
    """Writes a cell's model."""
    from orchestrator.publish.model_directory import find_cell, write_model

    sweep, rows = find_cell(sweeps, cell_id)
    for line in write_model(sweep, rows, Path(destination), form):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
