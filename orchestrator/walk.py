"""Walks the stages of one trial: load, prune, train, evaluate, publish, write rows.

Runs in every rank of a worker group and knows nothing of Ray. Each stage starts from exactly what
its parent stored; weights stay in memory where the next stage starts from them. A stage that fails
ends its branch, not the walk.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from core.allocation import allocate, matrices, outlier_ratios
from core.checkpoint import MASKS_FILE, load_masks, save_model
from core.config import FinetuneConfig, PruneConfig, Target
from core.data import training_windows
from core.finetune import TrainingError, finetune_, num_windows
from core.models import ModelSource, load_model, load_tokenizer
from core.parallel import Ranks, shard_
from core.perplexity import evaluate, evaluation_windows
from core.precision import DTYPES
from core.pruners import PruningError, make_pruner
from core.pruners.quantise import Grid, save_grids
from core.sequential import prune_
from core.sparsity import Masks, measure
from orchestrator.inputs import load_tokens, tokens_id
from orchestrator.job import Job
from orchestrator.plan import Cell, Stage
from orchestrator.results import row_key
from orchestrator.rows import build_row
from orchestrator.store import Store

logger = logging.getLogger(__name__)

CELL_ERRORS = (PruningError, TrainingError, MemoryError, torch.OutOfMemoryError)
"""What fails a cell, on all ranks alike, and lets the walk go on."""


GRIDS_FILE = "scales.safetensors"
"""What a stage's survivors were rounded to, beside its weights."""


@dataclass
class Workspace:
    """The weights in memory and the stage they belong to."""

    stage: str | None = None
    model: PreTrainedModel | None = None
    masks: Masks = field(default_factory=dict)


class Walk:
    """One trial on one rank."""

    def __init__(
        self, job: Job, store: Store, ranks: Ranks, report: Callable[[dict[str, Any]], None]
    ) -> None:
        self.job, self.store, self.ranks, self.report = job, store, ranks, report
        self.space = Workspace()
        self.manifests: dict[str, dict[str, Any]] = {}
        self.failed: dict[str, str] = {}
        self.written: set[str] = set()
        self.source = ModelSource(**job.source)

    def run(self) -> None:
        """All stages in order, each cell's rows as soon as its last stage is done."""
        last_use = {stage.parent: i for i, stage in enumerate(self.job.stages)}
        self.settle_cells()
        for i, stage in enumerate(self.job.stages):
            self.run_or_fail(i)
            self.settle_cells()
            for parent, use in last_use.items():
                if use == i and parent is not None:
                    self.let_go(parent)
            if stage.kind != "evaluate" and stage.id not in last_use:
                self.let_go(stage.id)

    def run_or_fail(self, index: int) -> None:
        """Runs a stage unless it is stored already or an ancestor failed."""
        stage = self.job.stages[index]
        if stage.parent in self.failed:
            self.failed[stage.id] = self.failed[stage.parent]
            return
        manifest = self.manifest(stage.id)
        if manifest is not None and (stage.kind == "evaluate" or not manifest.get("dropped")):
            return
        try:
            getattr(self, f"run_{stage.kind}")(stage)
        except CELL_ERRORS as error:
            self.space = Workspace()
            self.failed[stage.id] = self.describe(error)
            logger.error("%s of %s failed: %s", stage.kind, stage.method, self.failed[stage.id])

    def describe(self, error: BaseException) -> str:
        """One line for the row."""
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            gib = self.job.memory_bytes / 2**30
            return f"out of memory; estimated {gib:.1f} GiB a worker: use more --num-workers"
        return str(error).splitlines()[0]

    # Stages -------------------------------------------------------------------------------------

    def run_prune(self, stage: Stage) -> None:
        """Prunes the parent's weights and publishes the result."""
        fields = stage.fields
        model, masks = self.load(stage.parent, training=False)
        config = PruneConfig(**fields["settings"])
        pruner = make_pruner(stage.method, config)
        windows = None
        if "calibration" in fields:
            windows = self.tokens(stage)
        target = Target(fields["sparsity"], fields["mask_structure"])
        metrics: dict[str, Any] = {"calibration_tokens": 0 if windows is None else windows.numel()}
        with self.timed() as clock:
            targets = target
            if config.allocation != "uniform":
                assert windows is not None
                metrics["outlier_ratios"] = self.outlier_ratios(stage, model, windows)
                targets = allocate(matrices(model), metrics["outlier_ratios"], target)
            done = prune_(
                model,
                pruner,
                targets,
                self.ranks,
                windows=windows,
                masks=masks or None,
                micro_batch=self.micro_batch(fields.get("calibration", {}).get("seq_len", 1)),
                compute_dtype=DTYPES[self.job.dtype],
            )
        self.space = Workspace(stage.id, model, done.masks)
        metrics["dampening_frac"] = done.dampening_frac
        self.publish(stage, clock, metrics, fields["sparsity"], done.grids)

    def outlier_ratios(
        self, stage: Stage, model: PreTrainedModel, windows: torch.Tensor
    ) -> list[float]:
        """Those of the dense model: a branch's first prune stage measures them for all."""
        parent = stage.parent
        while parent is not None and parent != self.job.root:
            ratios = self.need_manifest(parent)["metrics"].get("outlier_ratios")
            if ratios is not None:
                return ratios
            parent = self.job.stage(parent).parent
        assert stage.parent == self.job.root, "only the dense model has outliers to measure"
        return outlier_ratios(
            model,
            windows,
            self.ranks,
            micro_batch=self.micro_batch(windows.shape[1]),
            compute_dtype=DTYPES[self.job.dtype],
        )

    def run_finetune(self, stage: Stage) -> None:
        """Trains the parent's weights under its masks and publishes the result."""
        fields = stage.fields
        seq_len = fields["text"]["seq_len"]
        model, masks = self.load(stage.parent, training=True)
        count = num_windows(fields["tokens"], seq_len)
        windows = training_windows(
            self.tokens(stage), count, seq_len, fields["seed"], fields["round"]
        )
        config = FinetuneConfig(
            lr=fields["lr"],
            warmup_frac=fields["warmup_frac"],
            weight_decay=fields["weight_decay"],
            clip_norm=fields["clip_norm"],
        )
        checkpoint = self.store.latest_checkpoint(stage.id) if self.ranks.rank == 0 else None
        checkpoint = self.same_everywhere(checkpoint)
        folder = f"checkpoints/{stage.id}"
        opened = (
            contextlib.nullcontext()
            if checkpoint is None
            else self.store.opened(folder, checkpoint)
        )
        with self.timed() as clock, opened as resume_from:
            done = finetune_(
                model,
                masks,
                windows,
                config,
                self.ranks,
                batch_windows=max(1, fields["batch_tokens"] // seq_len),
                micro_batch=self.micro_batch(seq_len),
                compute_dtype=DTYPES[fields["dtype"]],
                resume_from=resume_from,
                save_checkpoint=lambda step, write: self.save_checkpoint(stage.id, step, write),
                save_every_seconds=self.job.checkpoint_seconds,
            )
        self.space = Workspace(stage.id, model, masks)
        metrics = {
            "num_tokens": done.num_tokens,
            "losses": done.losses,
            "steps_resumed": done.steps_resumed,
        }
        self.publish(stage, clock, metrics, self.job.sparsity_of(stage.parent))
        if self.ranks.rank == 0:
            self.store.delete_checkpoints(stage.id)

    def run_evaluate(self, stage: Stage) -> None:
        """Evaluates the parent's weights."""
        text = stage.fields["text"]
        model, _ = self.load(stage.parent, training=False)
        stream = self.tokens(stage)
        windows = evaluation_windows(
            len(stream), text["seq_len"], text["stride"], text["max_windows"]
        )
        with self.timed() as clock:
            result = evaluate(
                model,
                stream,
                windows,
                self.ranks,
                micro_batch=self.micro_batch(text["seq_len"]),
                compute_dtype=DTYPES[self.job.dtype],
            )
        metrics = {
            "perplexity": result.perplexity,
            "nll": result.nll,
            "num_tokens": result.num_tokens,
            "num_windows": result.num_windows,
        }
        self.publish_metrics(stage, {**metrics, **clock})

    # Weights ------------------------------------------------------------------------------------

    def load(self, stage_id: str | None, training: bool) -> tuple[PreTrainedModel, Masks]:
        """Weights and masks of a stage: those in memory where they are its own, else the store's.

        Training needs float32 weights. Other stages run in the dtype the weights are stored in:
        the model's own before any training, float32 after.
        """
        assert stage_id is not None
        root = stage_id == self.job.root
        stored = self.job.dtype if root else self.need_manifest(stage_id)["metrics"]["dtype"]
        dtype = DTYPES["float32" if training else stored]
        space = self.space
        if space.stage == stage_id and space.model is not None:
            if next(space.model.parameters()).dtype == dtype:
                # Training and pruning change the model in place.
                self.space = Workspace(stage_id, space.model, space.masks)
                return space.model, space.masks
        self.space = Workspace()
        del space
        if root:
            model, masks = load_model(self.source, dtype), {}
        else:
            model, masks = self.load_stage(stage_id, dtype)
        shard_(model, self.ranks)
        self.space = Workspace(stage_id, model, masks)
        return model, masks

    def load_stage(self, stage_id: str, dtype: torch.dtype) -> tuple[PreTrainedModel, Masks]:
        """Reads a published stage after checking its files."""
        manifest = self.need_manifest(stage_id)
        if self.ranks.rank == 0:
            why = self.store.damage("stages", stage_id, manifest, deep=True)
            if why is not None:
                self.store.set_aside("stages", stage_id, why)
                raise RuntimeError(f"stage {stage_id} is damaged ({why}); run the command again")
        with self.store.opened("stages", stage_id) as directory:
            masks_file = directory / MASKS_FILE
            masks = load_masks(masks_file) if masks_file.exists() else {}
            return load_model(directory, dtype), masks

    def publish(
        self,
        stage: Stage,
        clock: dict[str, float],
        metrics: dict[str, Any],
        wanted: float,
        grids: dict[str, Grid] | None = None,
    ) -> None:
        """Measures sparsity, asserts the masks and stores weights with metrics (collective)."""
        model, masks = self.space.model, self.space.masks
        assert model is not None
        measured = measure(model, masks)
        dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
        metrics |= {
            **clock,
            "dtype": dtype,
            "num_pruned": measured.num_pruned,
            "num_prunable": measured.num_prunable,
            "measured_sparsity": measured.sparsity,
            "measured_sparsity_worst": measured.worst(wanted),
        }
        with self.store.scratch() as directory:
            save_model(directory, model, masks, self.ranks)
            if self.ranks.rank == 0:
                if grids:
                    save_grids(directory / GRIDS_FILE, grids)
                load_tokenizer(self.source).save_pretrained(directory)
                self.store.publish("stages", stage.id, directory, self.record(stage, metrics))
        self.ranks.barrier()

    def publish_metrics(self, stage: Stage, metrics: dict[str, Any]) -> None:
        """Stores a stage that has no weights."""
        if self.ranks.rank == 0:
            with self.store.scratch() as directory:
                self.store.publish("stages", stage.id, directory, self.record(stage, metrics))
        self.ranks.barrier()

    def record(self, stage: Stage, metrics: dict[str, Any]) -> dict[str, Any]:
        """What a manifest says of a stage."""
        return {
            "id": stage.id,
            "kind": stage.kind,
            "parent": stage.parent,
            "model": stage.model,
            "method": stage.method,
            "fields": stage.fields,
            "metrics": metrics,
            "environment": {**self.job.environment, "num_workers": self.ranks.size},
        }

    def save_checkpoint(self, stage_id: str, step: int, write: Callable[[Path], None]) -> None:
        """Publishes a training checkpoint that all ranks wrote, and drops older ones."""
        folder, name, record = f"checkpoints/{stage_id}", str(step), {"id": stage_id, "step": step}
        lead = self.ranks.rank == 0
        if self.store.is_local:
            # All ranks write into one directory of the disk they share.
            aside = self.same_everywhere(str(self.store.shared_scratch()) if lead else None)
            assert aside is not None
            write(Path(aside))
            self.ranks.barrier()
            if lead:
                self.store.publish(folder, name, Path(aside), record)
        else:
            with self.store.scratch() as directory:
                write(directory)
                part = self.store.upload_all(folder, name, directory)
            parts = self.ranks.gather(part)
            if lead:
                self.store.publish_parts(folder, name, parts, record)
        if lead:
            self.store.delete_checkpoints(stage_id, but=name)
        self.ranks.barrier()

    def let_go(self, stage_id: str) -> None:
        """Drops weights that the keep policy does not want, once no stage starts from them."""
        if self.ranks.rank == 0 and stage_id in self.job.drop:
            self.store.drop_weights(stage_id)

    # Cells --------------------------------------------------------------------------------------

    def settle_cells(self) -> None:
        """Writes the rows of cells that are complete or have failed, and reports them."""
        for cell in self.job.cells:
            if cell.id in self.written:
                continue
            error = next((self.failed[s] for s in cell.all_stages() if s in self.failed), None)
            if error is None and any(self.manifest(s) is None for s in cell.all_stages()[1:]):
                continue
            self.written.add(cell.id)
            status = "done" if error is None else self.failure_status(cell)
            perplexities = []
            for evaluation in cell.evaluations:
                row = build_row(self.job, cell, evaluation, self.manifest, status, error)
                perplexities.append(row["perplexity"])
                if self.ranks.rank == 0:
                    self.store.put_row(row_key(cell.id, evaluation), row)
            self.report(
                {
                    "cell": cell.id,
                    "method": cell.method,
                    "regime": cell.regime,
                    "sparsity": cell.target.sparsity,
                    "mask_structure": cell.target.mask_structure or "",
                    "round": cell.round,
                    "perplexity": perplexities[0],
                    "status": status,
                    "error": error or "",
                    "cells_done": len(self.written),
                }
            )

    def failure_status(self, cell: Cell) -> str:
        """`failed` for the first cell that a failed stage stops, `not_run` for those behind it."""
        broken = {s for s in cell.all_stages() if s in self.failed}
        shortest = min(
            len(other.stages) for other in self.job.cells if broken & {*other.all_stages()}
        )
        return "failed" if len(cell.stages) == shortest else "not_run"

    # Small things -------------------------------------------------------------------------------

    def manifest(self, stage_id: str) -> dict[str, Any] | None:
        """A stage's manifest, remembered once found."""
        if stage_id not in self.manifests:
            found = self.store.manifest("stages", stage_id)
            if found is None:
                return None
            self.manifests[stage_id] = found
        return self.manifests[stage_id]

    def need_manifest(self, stage_id: str) -> dict[str, Any]:
        """A manifest that must be there."""
        manifest = self.manifest(stage_id)
        assert manifest is not None, f"stage {stage_id} is not in the store"
        return manifest

    def tokens(self, stage: Stage) -> torch.Tensor:
        """The token file of a stage."""
        name = tokens_id(stage, self.source.identity)
        assert name is not None
        return load_tokens(self.store, name)

    def micro_batch(self, seq_len: int) -> int:
        """Windows a forward pass."""
        return max(1, self.job.micro_batch_tokens // seq_len)

    def same_everywhere(self, value: str | None) -> str | None:
        """Rank 0's value on all ranks."""
        return self.ranks.agree(value if self.ranks.rank == 0 else None)

    @contextlib.contextmanager
    def timed(self) -> Iterator[dict[str, float]]:
        """Fills in seconds and the peak memory of the busiest rank (collective)."""
        clock: dict[str, float] = {}
        start = time.monotonic()
        yield clock
        if self.ranks.device.type == "cuda":
            torch.cuda.synchronize(self.ranks.device)
        clock["seconds"] = time.monotonic() - start
        peaks = torch.zeros(self.ranks.size, dtype=torch.float64)
        peaks[self.ranks.rank] = peak_memory(self.ranks.device)
        clock["peak_memory_bytes"] = int(self.ranks.sum_(peaks).max().item())
        clock["finished_at"] = datetime.datetime.now(datetime.UTC).timestamp()


def peak_memory(device: torch.device) -> float:
    """Bytes at the highest point of this process so far: GPU memory, else resident memory."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
