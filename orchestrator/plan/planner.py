"""The planner: blocks of settings become cells and stages, before anything runs.

A block is one product: a grid under one set of settings. `build_plan` puts any number of blocks
into one plan. Stages and cells are shared by identity, so a setting that a cell does not read makes
no further cell. Stages form one tree for each model, rooted at the dense model. Nothing here reads
a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from core.config import FinetuneConfig, PruneConfig
from core.joint_config import JointConfig
from core.methods import JOINT_METHODS, needs_calibration
from core.schedule import round_tokens
from core.targets import Target
from core.training_config import Training
from orchestrator.config import GridConfig, is_pair
from orchestrator.plan.cell import DENSE, Cell, Point, Settings
from orchestrator.plan.inputs import ADAPTIVE_STEPS, JOINT_STEPS, Draw, ModelInputs, TaskInput
from orchestrator.plan.kinds import Dense, Evaluate, Finetune, Joint, Prune, Speed, Tasks
from orchestrator.plan.plan import Plan


@dataclass(frozen=True)
class Extra:
    """A sparsity of one model, method and regime beside those of the grid.

    An iterative branch to it goes through the sparsities of the grid below it, then to it.
    """

    model: str
    method: str
    regime: str
    sparsity: float


@dataclass(frozen=True)
class Planner:
    """Plans one block: a grid under one set of settings."""

    grid: GridConfig
    prune: PruneConfig
    finetune: FinetuneConfig
    tasks: tuple[TaskInput, ...] = ()
    """Zero-shot tasks on the last weights of every cell."""
    task_limit: int | None = None
    joint: JointConfig = JointConfig()
    extras: tuple[Extra, ...] = ()
    """Cells beside the grid; each has all seeds."""
    axes: Mapping[str, Any] = field(default_factory=dict)
    """Values of the settings, by name, in which the blocks of the plan differ."""
    speed: bool = False
    """True if the speed of every cell's last weights is measured."""

    def build(
        self, models: Iterable[ModelInputs], circumstances: Mapping[str, Any] | None = None
    ) -> Plan:
        """Return the plan of this block alone; see `build_plan`."""
        return build_plan([(self, models)], circumstances)


def build_plan(
    blocks: Iterable[tuple[Planner, Iterable[ModelInputs]]],
    circumstances: Mapping[str, Any] | None = None,
) -> Plan:
    """Return the plan of all models, methods, regimes, targets and seeds of some blocks.

    Args:
        blocks: each with its resolved models and texts.
        circumstances: facts of the run, for kinds whose numbers depend on them.
    """
    plan, blocks = Plan({}, circumstances or {}), list(blocks)
    planners: list[ModelPlanner] = []
    for number, (planner, models) in enumerate(blocks):
        plan.axes.append(planner.axes)
        plan.within.append(planner.grid.within)
        for model in models:
            plan.models.setdefault(model.name, model)
            planners.append(ModelPlanner(planner, plan, model, number))
            planners[-1].add_all()
    grid = set(plan.cells)
    for each in planners:
        each.add_extras()
    plan.extras |= plan.cells.keys() - grid
    for cell in plan.cells.values():
        planner = blocks[cell.block][0]
        for task in planner.tasks:
            work = Tasks(task, planner.task_limit, plan.models[cell.model].dtype)
            plan.add_stage(work, cell.model, cell.method, cell.stages[-1])
    require_walked(plan)
    return plan


class ModelPlanner:
    """Adds the cells and stages of one model in one block to a plan."""

    def __init__(self, planner: Planner, plan: Plan, model: ModelInputs, block: int) -> None:
        self.grid, self.config = planner.grid, planner
        self.plan, self.model, self.block = plan, model, block
        self.training = planner.finetune.training()
        self.placed: dict[tuple[object, ...], str] = {}
        """Stages by what tells them apart within one model. Branches share most of them, and a
        look here is quicker than a new `Work` for `Plan.add_stage`."""
        self.evaluations: dict[str, tuple[str, ...]] = {}
        self.paths: dict[tuple[str, Target], list[Target]] = {}
        dense = Dense(model.identity, model.dtype)
        self.root = plan.add_stage(dense, model.name, DENSE, None)

    def add_all(self) -> None:
        """Add the dense model, its trained control and all pruned cells."""
        self.add_cell(Point(DENSE, DENSE, Target(0.0), None), [self.root])
        grid = self.grid
        if grid.finetunes:
            for seed in grid.seeds:
                self.add_control(seed)
        aims = [(regime, target) for regime in grid.regimes for target in grid.targets()]
        for method in grid.methods:
            for seed in grid.seeds:
                for regime, target in aims:
                    if is_pair(method, regime):
                        self.add_pruned(Point(method, regime, target, seed))

    def add_extras(self) -> None:
        """Add the cells beside the grid."""
        for extra in (e for e in self.config.extras if e.model == self.model.name):
            target = Target(round(extra.sparsity, 6))
            for seed in self.grid.seeds:
                self.add_pruned(Point(extra.method, extra.regime, target, seed), is_extra=True)

    def add_pruned(self, point: Point, is_extra: bool = False) -> None:
        """Add one cell of a method, with all stages on the way to it."""
        add = self.add_joint_branch if point.method in JOINT_METHODS else self.add_branch
        cell = add(point)
        if point.target.mask_structure is None:
            self.plan.add_to_curve(cell, self.block, is_extra)

    def add_cell(self, point: Point, stages: list[str], **facts: Any) -> Cell:
        """Add a cell at the end of `stages`, with the evaluations of its weights; return it."""
        evaluations = self.add_evaluations(point.method, stages[-1])
        trains = any(self.plan.stages[stage].work.trains for stage in stages)
        settings = Settings(
            protocol=self.grid.protocol,
            schedule=self.grid.schedule if point.regime == "iterative" else None,
            budget=self.config.finetune.budget if trains else None,
        )
        facts |= {"block": self.block, "looks": self.add_looks(point.method, stages[-1])}
        cell = Cell(self.model.name, point, settings, tuple(stages), evaluations, **facts)
        return self.plan.add_cell(cell)

    def add_control(self, seed: int) -> None:
        """Add the dense model trained with the same tokens, round by round, as a reference."""
        budget = self.config.finetune.budget
        rounds = self.grid.most_rounds() if budget == "round" else 1
        point, stages = Point(DENSE, "finetune", Target(0.0), seed), [self.root]
        for i, tokens in enumerate(self.round_tokens(rounds), start=1):
            stages.append(self.add_finetune(DENSE, stages[-1], tokens, seed, i))
            self.add_cell(point, stages, round=i, num_rounds=rounds)

    def add_branch(self, point: Point) -> Cell:
        """Add one cell that prunes, once or by turns, with all stages on the way to it."""
        path = self.path_to(point)
        seed = point.seed
        assert seed is not None
        stages, before = [self.root], ()
        for i, (step, tokens) in enumerate(zip(path, self.round_tokens(len(path))), start=1):
            stages.append(self.add_prune(point.method, stages[-1], step, seed))
            if point.regime != "oneshot":
                before = self.add_evaluations(point.method, stages[-1])
                stages.append(self.add_finetune(point.method, stages[-1], tokens, seed, i))
        seeded = any(self.plan.stages[stage].work.draws() for stage in stages)
        rounds = len(path)
        return self.add_cell(
            Point(point.method, point.regime, point.target, seed if seeded else None),
            stages,
            before=before,
            round=rounds,
            num_rounds=rounds,
            path=tuple(step.sparsity for step in path),
        )

    def add_joint_branch(self, point: Point) -> Cell:
        """Add one cell that finds its mask by training, from the dense model or a pruned one."""
        joint = self.config.joint.at(point.target.sparsity, self.model.name)
        seed, stages = point.seed, [self.root]
        assert seed is not None
        path = [point.target]
        if joint.start_sparsity is not None:
            path.insert(0, Target(joint.start_sparsity))
            stages.append(self.add_prune(joint.start, self.root, path[0], seed))
        (tokens,) = self.round_tokens(1)
        training = joint.training(self.training)
        batch = self.model.step_tokens(JOINT_STEPS, tokens)
        work = Joint(
            method=point.method,
            settings=self.config.prune,
            target=point.target,
            joint=joint,
            round=self.training_work(training, tokens, seed, 1, batch),
        )
        stages.append(self.plan.add_stage(work, self.model.name, point.method, stages[-1]))
        steps = tuple(step.sparsity for step in path)
        return self.add_cell(point, stages, round=1, num_rounds=1, path=steps)

    def path_to(self, point: Point) -> list[Target]:
        """Return the targets that a branch to a point passes through, its last one included."""
        aim = (point.regime, point.target)
        if aim not in self.paths:
            self.paths[aim] = self.grid.path(*aim)
        return self.paths[aim]

    def round_tokens(self, rounds: int) -> list[int]:
        """Return the training tokens of each round."""
        return round_tokens(self.model.finetune_tokens, rounds, self.config.finetune.budget)

    def add_evaluations(self, method: str, parent: str) -> tuple[str, ...]:
        """Add one evaluate stage for each text; return their ids."""
        if parent not in self.evaluations:
            works = (Evaluate(text, self.model.dtype) for text in self.model.evaluations)
            found = (self.plan.add_stage(w, self.model.name, method, parent) for w in works)
            self.evaluations[parent] = tuple(found)
        return self.evaluations[parent]

    def add_looks(self, method: str, parent: str) -> tuple[str, ...]:
        """Add what else is measured of weights; return the ids of the stages."""
        if not self.config.speed:
            return ()
        work = Speed(self.model.dtype)
        return (self.plan.add_stage(work, self.model.name, method, parent),)

    def add_prune(self, method: str, parent: str, target: Target, seed: int) -> str:
        """Add a prune stage; return its id."""
        place = (parent, method, target, seed)
        if place not in self.placed:
            draw = None
            if needs_calibration(method, self.config.prune):
                assert self.model.calibration is not None
                draw = Draw(self.model.calibration, seed)
            work = Prune(method, self.config.prune, target, draw, self.model.dtype)
            self.placed[place] = self.plan.add_stage(work, self.model.name, method, parent)
        return self.placed[place]

    def add_finetune(self, method: str, parent: str, tokens: int, seed: int, index: int) -> str:
        """Add a round of training; return its id."""
        place = (parent, method, tokens, seed, index)
        if place not in self.placed:
            model, adapts = self.model, self.training.adapts
            batch = model.step_tokens(ADAPTIVE_STEPS, tokens) if adapts else model.batch_tokens
            work = self.training_work(self.training, tokens, seed, index, batch)
            work = replace(work, is_control=method == DENSE)
            self.placed[place] = self.plan.add_stage(work, self.model.name, method, parent)
        return self.placed[place]

    def training_work(
        self, training: Training, tokens: int, seed: int, index: int, batch_tokens: int
    ) -> Finetune:
        """Return the work of a round of training, with the text that a rate is chosen on."""
        model = self.model
        # Masked training with one rate chooses nothing: the text is for the rates of the other.
        is_others = self.grid.joins and len(training.lrs) <= 1
        assert model.finetune is not None
        return Finetune(
            text=model.finetune,
            tokens=tokens,
            batch_tokens=batch_tokens,
            training=training,
            dtype=model.training_dtype,
            seed=seed,
            round=index,
            validation=None if is_others else model.validation,
        )


def require_walked(plan: Plan) -> None:
    """Assert that each stage of a trial belongs to a cell: trials run the stages of cells.

    Evaluations between rounds whose sparsity is no cell's are planned, but not run.
    """
    walked = {stage for cell in plan.cells.values() for stage in cell.all_stages()}
    for stage in plan.stages.values():
        runs = stage.work.runs_in == "trial" and not isinstance(stage.work, Evaluate)
        assert stage.id in walked or not runs, f"no cell has {stage}"
