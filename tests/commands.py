"""Commands on stores in this process: real plans, stores, jobs, walks and reports; no Ray, no work.

Stages compute a hash instead of a model. A command can be cut off before any change of a file and
at the beginning and end of every stage. It then leaves what a killed process leaves.
"""

import contextlib
import functools
import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch

from core.config import CalibrationConfig, EvalConfig, FinetuneConfig
from core.pruners.pruner import PruningError
from core.ranks import Ranks
from orchestrator import missing_work, preparation, report, sweep
from orchestrator.cluster.diagnosis import Failure
from orchestrator.cluster.failed_cells import give_up_on_next, without_failed
from orchestrator.config import GridConfig, OutputConfig, ResourceConfig, SweepConfig
from orchestrator.estimate import keep_policy
from orchestrator.plan import trials
from orchestrator.plan.kinds import Evaluate, Finetune, Prune
from orchestrator.results.parquet import read_rows
from orchestrator.store import claims
from orchestrator.store.files import Files
from orchestrator.store.store import Store
from orchestrator.trial import walk, workspace
from orchestrator.trial.weights import Weights

CHANGES = {
    os: ("rename", "replace", "unlink", "remove", "mkdir", "rmdir", "link"),
    shutil: ("move", "rmtree"),
    Files: ("write_bytes", "delete", "delete_folder"),
}
"""Functions that change files, by where they are found."""
MEASURED = ("sweep_id", "config", "num_rounds")


class Killed(BaseException):
    """The command was cut off; whatever it still tries to change stays as it is."""


class LostError(Exception):
    """A worker group was lost."""


@dataclass(frozen=True)
class Command:
    """One command: its grid and options, and what goes wrong."""

    methods: tuple[str, ...] = ("magnitude",)
    regimes: tuple[str, ...] = ("oneshot",)
    sparsities: tuple[float, ...] = (0.5,)
    texts: tuple[str, ...] = ("one",)
    protocol: str = "sparsegpt"
    keep: str | None = None
    retry: bool = False
    large: bool = False
    """True if the plan counts as too large for keeping all weights by default."""
    slots: int = 1
    fails_at: int | None = None
    """Number of the stage that fails, from 0."""
    lost: bool = False
    """True if it takes its worker group with it; else the stage's own error fails it."""
    killed_at: int | None = None
    """Number of the event before which the command is cut off, from 0."""


class Model:
    """Weights that are a few bytes."""

    config = SimpleNamespace(_attn_implementation="none")

    def __init__(self, content):
        self.content = content

    def parameters(self):
        return iter([torch.zeros(1)])


@dataclass(frozen=True)
class Slots:
    """Room that never changes."""

    count: int

    def settle(self, job, num_trials):
        return job


class Bench:
    """Runs commands; counts events, and every stage that was computed."""

    def __init__(self, model, texts, monkeypatch):
        self.model, self.texts, self.patch = model, texts, monkeypatch
        self.computed = []
        self.command, self.events, self.left, self.armed = Command(), 0, None, False
        self.pretend()

    def run(self, out, command):
        """Run a command; return its sweep and its exit code, None if it was killed."""
        config, self.command = self.config(out, command), command
        self.events, self.left, self.armed = 0, command.killed_at, True
        self.stages_run, self.sweep = 0, None
        limit = 0 if command.large else 2e9
        self.patch.setattr(keep_policy, "KEEP_ALL_BELOW_BYTES", limit)
        try:
            with contextlib.redirect_stdout(None):
                code = sweep.run_sweep(config)
            return self.sweep, code
        except Killed:
            return self.sweep, None
        finally:
            self.armed = False

    def config(self, out, command):
        texts = {
            name: str(self.texts / f"{name}.txt") for name in ("calibration", "train", "one", "two")
        }
        seq_len = {"seq_len": 32}
        return SweepConfig(
            grid=GridConfig(
                models=(str(self.model),),
                methods=command.methods,
                regimes=command.regimes,
                sparsities=command.sparsities,
                protocol=command.protocol,
                dtype="float32",
            ),
            calibration=CalibrationConfig(text=texts["calibration"], num_samples=4, **seq_len),
            finetune=FinetuneConfig(text=texts["train"], tokens=256, batch_tokens=64, **seq_len),
            eval=EvalConfig(
                texts=tuple(texts[name] for name in command.texts), max_windows=2, **seq_len
            ),
            resources=ResourceConfig(cpus_per_worker=1),
            output=OutputConfig(out_dir=str(out), keep=command.keep, retry_failed=command.retry),
        )

    # What goes wrong ----------------------------------------------------------------------------

    def event(self):
        """Count an event; cut the command off at its number, and at all that follow."""
        if self.armed:
            self.events += 1
            if self.left is not None and self.events > self.left:
                raise Killed

    def watch_changes(self):
        for owner, names in CHANGES.items():
            for name in names:
                self.patch.setattr(owner, name, self.counted(getattr(owner, name)))

    def counted(self, function):
        @functools.wraps(function)
        def call(*args, **kwargs):
            self.event()
            return function(*args, **kwargs)

        return call

    def fail(self):
        number, self.stages_run = self.stages_run, self.stages_run + 1
        if number == self.command.fails_at:
            raise (
                LostError("the worker was lost")
                if self.command.lost
                else PruningError("no inverse")
            )

    # What is pretended --------------------------------------------------------------------------

    def pretend(self):
        """Replace what is slow: reading names, the cluster, models, the page, and the disk."""
        setattr_ = self.patch.setattr
        resolve, prepare = preparation.resolve_blocks, preparation.prepare
        known = {}

        def resolved(blocks, *rest):
            (config,) = blocks
            grid = config.grid
            key = grid.protocol, grid.methods, grid.trains, config.eval
            if key not in known:
                known[key] = resolve(blocks, *rest)
            return known[key]

        def noted(config):
            self.sweep = prepare(config)
            return self.sweep

        def seconds(found):
            return preparation.Texts({}, {}, dict.fromkeys(found.plan.stages, 1.0))

        setattr_(preparation, "resolve_blocks", resolved)
        setattr_(preparation, "known_values", lambda _: [])
        setattr_(report, "known_values", lambda _: [])
        setattr_(preparation.versions, "environment", lambda: {"code_version": "0"})
        setattr_(sweep, "prepare", noted)
        setattr_(sweep, "read_texts", seconds)
        setattr_(report, "write_html", lambda *_, **__: None)
        setattr_(missing_work.connection, "connect", lambda: None)
        setattr_(missing_work.connection, "ray", SimpleNamespace(shutdown=lambda: None))
        setattr_(missing_work.slots, "num_slots", lambda *_: self.command.slots)
        setattr_(missing_work.slots, "slots_of_cluster", lambda *_: Slots(self.command.slots))
        setattr_(missing_work.tune, "run_trials", self.run_trials)
        setattr_(trials, "TRIAL_SECONDS", 0.1)
        setattr_(walk, "RUNNERS", dict.fromkeys((Prune, Finetune, Evaluate), self.run_stage))
        setattr_(Weights, "read", lambda _, source, dtype: Model(read_content(source)))
        setattr_(Weights, "save", save_content)
        counts = {"pruned": {"w": 1}, "total": {"w": 2}, "num_pruned": 1, "num_prunable": 2}
        measured = SimpleNamespace(**counts, sparsity=0.5, worst=lambda _: 0.0)
        setattr_(workspace, "measure", lambda *_: measured)
        setattr_(os, "fsync", lambda _: None)
        # Commands run one after another, so claims of others are those of killed ones.
        setattr_(claims, "is_alive", lambda _: False)
        self.watch_changes()

    def run_trials(self, pairs, *rest):
        """Run trials one after another, each as its driver does."""
        for _, whole in pairs:
            store = Store(whole.store_root)
            job = without_failed(whole, store)
            while job is not None:
                try:
                    walk.Walk(job, store, Ranks.current(), lambda told: self.event()).run()
                    break
                except LostError as error:
                    job = give_up_on_next(job, store, Failure(str(error), interrupted=True))
        for callback in rest[-1]:
            callback.on_experiment_end([])
        return []

    def run_stage(self, space, stage):
        """Do what a runner does; the result is a hash of the stage and of its parent's weights."""
        self.event()
        weights = stage.work.stores_weights
        model, _ = space.weights.load(stage.parent, training=False)
        stored = space.store.stages.at(stage.id).manifest()
        again = stored is not None and not (weights and stored.get("dropped"))
        self.computed.append((stage.id, again))
        self.fail()
        content = hashlib.sha256(model.content + stage.id.encode()).digest()
        metrics = {"seconds": 1.0, "finished_at": 0.0}
        if weights:
            space.weights.hold(stage.id, Model(content), {})
            space.publish(stage, metrics)
        else:
            perplexity = 1 + int.from_bytes(content[:4]) / 1e6
            metrics |= {"perplexity": perplexity, "nll": 1.0, "num_tokens": 64, "num_windows": 2}
            space.publish_metrics(stage, metrics)
        self.event()


def read_content(source):
    return (source / "weights").read_bytes() if isinstance(source, Path) else b"dense"


def save_content(weights, directory):
    (directory / "weights").write_bytes(weights.held.model.content)


def rows_of(sweep):
    """Return the rows of a sweep's grid in `results.parquet`, without what each run has anew."""
    return [
        {name: value for name, value in row.items() if name not in MEASURED}
        for row in read_rows(sweep.store.files.join("results.parquet"))
        if row["in_current_grid"]
    ]


def kept_in(store):
    """Return the manifests of the stages whose weights are in a store, by id."""
    whole, _ = store.stages.inspect()
    return {stage: manifest for stage, manifest in whole.items() if manifest["files"]}
