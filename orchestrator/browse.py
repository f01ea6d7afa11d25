"""Look at sweeps: in a browser, as figures and tables, or one cell as a model.

    prune-browse OUT_DIR                       # page, also while a sweep runs
    prune-browse OUT_DIR OTHER_OUT_DIR         # several sweeps side by side
    prune-browse OUT_DIR --export              # figures and tables
    prune-browse OUT_DIR --get CELL_ID DEST    # a pruned model
    prune-browse OUT_DIR --prune-models        # free the disk of kept models

`python -m orchestrator.browse` is the same command. An out-dir is a local
directory or a URI. Only `--export` and `--prune-models` write there; and
results.parquet is made again if a sweep was killed before it wrote it.
"""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from core.checks import BadInputError, require
from core.paths import local_path, require_writable
from orchestrator.flags import parse_flags
from orchestrator.terminal import use_any_terminal

if TYPE_CHECKING:
    from orchestrator.page.watched import Watched

ModelFormat = Literal["huggingface", "compressed-tensors"]
FigureFormat = Literal["svg", "pdf", "png"]


@dataclass(frozen=True)
class BrowseConfig:
    """Flags of the command."""

    out_dirs: tyro.conf.Positional[tuple[str, ...]]
    """Directories or URIs, each the --out-dir of a sweep."""
    port: int | None = None
    """Port of the page on 127.0.0.1. By default 8790, or any free port if that is taken."""
    export: bool = False
    """Write figures and tables (CSV, Markdown, LaTeX) into OUT_DIR/export instead."""
    export_dir: str | None = None
    """Directory for --export, if not OUT_DIR/export."""
    figures: tuple[FigureFormat, ...] | None = None
    """Formats of the figures of --export, by default all three. PDF and PNG need Chromium or
    Chrome."""
    get: tuple[str, str] | None = None
    """CELL_ID and DEST: write the pruned model of a cell into the new directory DEST, in the
    format of Hugging Face. The first letters of the id are enough."""
    prune_models: bool = False
    """List the pruned models that OUT_DIR keeps, with their sizes and the sweeps that ask for them.
    Then ask, and remove their weights. Rows and metrics stay. Nothing else removes
    models that a sweep keeps."""
    yes: bool = False
    """Remove what --prune-models lists without asking."""
    format: ModelFormat | None = None
    """Format of --get, by default huggingface. Files of compressed-tensors are smaller by about the
    sparsity; they need `pip install -e '.[compressed]'`."""

    def __post_init__(self) -> None:
        require(bool(self.out_dirs), "out-dirs", "(empty)", "name the --out-dir of a sweep")
        both = self.export and self.get is not None
        require(not both, "export", "has no effect", "with --get; run the command twice")
        both = self.prune_models and (self.export or self.get is not None)
        require(not both, "prune-models", "has no effect", "with others; run the command twice")
        require(self.prune_models or not self.yes, "yes", "has no effect", "without --prune-models")
        for flag, value, needs, given in (
            ("export-dir", self.export_dir, "export", self.export),
            ("figures", self.figures, "export", self.export),
            ("format", self.format, "get", self.get is not None),
        ):
            require(value is None or given, flag, "has no effect", f"only --{needs} reads it")
        looks = not (self.export or self.prune_models) and self.get is None
        require(self.port is None or looks, "port", "has no effect", "nothing is served")
        if self.port is not None:
            require(0 <= self.port < 65536, "port", self.port, "use 1 to 65535, or 0 for any")


def main(arguments: list[str] | None = None) -> int:
    """Do what the flags ask for; return the exit code (2: bad input, told in one line)."""
    use_any_terminal()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    try:
        given = sys.argv[1:] if arguments is None else arguments
        config = parse_flags(BrowseConfig, given, description=__doc__)
        from orchestrator.page.watched import watch_all  # Only now: it imports Arrow.

        sweeps = watch_all(tuple(local_path("out-dirs", each) for each in config.out_dirs))
        if config.prune_models:
            return prune_models(sweeps, config.yes)
        for sweep in sweeps:
            sweep.refresh_results()
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
    """Serve the page until Ctrl-C."""
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
    """Write figures and tables of each out-dir."""
    from orchestrator.publish.export import DEFAULT_FIGURES, export, require_figures
    from orchestrator.results.published import known_values

    if config.figures is not None:
        require_figures(config.figures)
    for sweep in sweeps:
        directory = export_directory(sweep, config, sweeps.index(sweep) + 1)
        figures = config.figures or DEFAULT_FIGURES
        published = known_values(None) if sweep.published is None else sweep.published
        try:
            for path in export(sweep.rows(), directory, figures, published):
                print(path)
        except PermissionError as error:
            remedy = f"cannot be written ({error.strerror}: {error.filename})"
            raise BadInputError(f"--export-dir {directory}: {remedy}") from None
    return 0


def export_directory(sweep: Watched, config: BrowseConfig, number: int) -> Path:
    """Return the folder for the figures and tables of one out-dir, the `number`th of the command.

    Raises:
        BadInputError: nothing can be written there.
    """
    if config.export_dir is None:
        remedy = "is a URI; name a local directory with --export-dir"
        require(sweep.store.files.is_local, "export", sweep.name, remedy)
        own = sweep.store.files.join("export")
        try:
            require_writable("export", sweep.name, own)
        except BadInputError as error:
            raise BadInputError(f"{error} with --export-dir") from None
        return Path(own)
    asked = local_path("export-dir", config.export_dir)
    require_writable("export-dir", config.export_dir, asked)
    return Path(asked, str(number)) if len(config.out_dirs) > 1 else Path(asked)


def prune_models(sweeps: list[Watched], yes: bool) -> int:
    """List the kept models of each out-dir, ask, and remove their weights."""
    from orchestrator.out_dir import told_if_unwritable
    from orchestrator.results.kept_models import describe_models, kept_models, mebibytes

    for sweep in sweeps:
        remedy = "a sweep is running there, or was a minute ago; stop it or wait for its end"
        require(not sweep.is_running(), "prune-models", sweep.name, remedy)
        models = kept_models(sweep.store)
        print(describe_models(sweep.store, models))
        if not models or not (yes or agreed(f"remove these {len(models)} models? [y/N] ")):
            print("nothing removed")
            continue
        with told_if_unwritable(sweep.store, "prune-models"):
            for model in models:
                sweep.store.stages.drop_weights(model.stage)
        freed = mebibytes(sum(model.size for model in models))
        print(f"removed {len(models)} models, {freed}; rows and metrics are still there")
    return 0


def agreed(question: str) -> bool:
    """Ask on the terminal; return True only if the answer is yes."""
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        raise BadInputError("--prune-models: nobody can answer here; add --yes") from None


def get_model(sweeps: list[Watched], cell_id: str, destination: str, form: ModelFormat) -> int:
    """Write the model of a cell."""
    from orchestrator.publish.model_directory import find_cell, write_model

    sweep, rows = find_cell(sweeps, cell_id)
    destination = os.path.realpath(local_path("get", destination))
    for line in write_model(sweep, rows, Path(destination), form):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
