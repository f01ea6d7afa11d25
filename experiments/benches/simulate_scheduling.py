"""Simulation of scheduling: plans 10,000 and 30,000 cells and shows how full the slots are.

    python experiments/benches/simulate_scheduling.py [--spot-hours 6]

A discrete-event simulation without Ray, below a minute. Idle slots take trials in order. A trial
costs a start and then its stages, one after another. A spot slot is lost now and then (exponential,
mean --spot-hours) and comes back. Its trial then goes on with the stage that it was at, which has
kept its checkpoints if it prunes or trains. Two bounds hold for every schedule: the longest chain
of stages, and all work spread evenly over the slots.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
import time
from dataclasses import dataclass
from statistics import fmean
from typing import TypedDict
from unittest import mock

from core.config import FinetuneConfig, PruneConfig
from orchestrator.config import GridConfig, OutputConfig
from orchestrator.plan.cell import Cell
from orchestrator.plan.inputs import CalibrationText, EvaluationText, ModelInputs, TrainingText
from orchestrator.plan.plan import Plan
from orchestrator.plan.planner import Planner
from orchestrator.plan.trials import Trial, needed_stages, pack_trials

START_SECONDS, REPLACE_SECONDS = 20.0, 180.0
"""Start of a worker group (measured: 10 to 30 s), and time until a spot node is back (assumed)."""
CHECKPOINT_SECONDS = OutputConfig().checkpoint_seconds
SECONDS = {"prune": 300.0, "finetune": 900.0, "evaluate": 20.0}
SEEDS, SPOT_SEEDS = 5, 5


Steps = list[tuple[float, bool]]
"""The stages of a trial: seconds, and True if a stage goes on from its checkpoints."""


class Grid(TypedDict):
    """The size of a grid: three methods and regimes, and so many of these."""

    models: int
    sparsities: int
    seeds: int


CASES: tuple[tuple[int, Grid], ...] = (
    (100, {"models": 12, "sparsities": 19, "seeds": SEEDS}),
    (1_000, {"models": 12, "sparsities": 19, "seeds": SEEDS}),
    (1_000, {"models": 12, "sparsities": 4, "seeds": 70}),
)
"""Slots and grids. The second has less work for a slot than its longest chain takes."""


@dataclass(frozen=True)
class Outcome:
    """Result of a schedule."""

    makespan: float
    work: float
    """Seconds of all stages, without lost ones."""
    lost: float
    """Seconds of half-done stages since their last checkpoints."""
    interruptions: int
    bound: float

    @property
    def overhead(self) -> float:
        """Makespan divided by the lower bound, minus one."""
        return self.makespan / self.bound - 1


def synthetic_models(count: int) -> list[ModelInputs]:
    """Return models that have a name and inputs only."""
    calibration = CalibrationText("c", "c", 128, 2048, "documents")
    return [
        ModelInputs(
            name=f"model-{i}",
            identity=f"{i}",
            dtype="bfloat16",
            training_dtype="bfloat16",
            calibration=calibration,
            finetune=TrainingText("text", "t", 2048),
            finetune_tokens=2**20,
            batch_tokens=16_384,
            evaluations=(EvaluationText("text", "t", 2048, 2048),),
        )
        for i in range(count)
    ]


def build_plan(models: int, sparsities: int = 19, seeds: int | None = None) -> Plan:
    """Return a plan of 875 cells for each model, or of another number of sparsities and seeds."""
    grid = GridConfig(
        models=tuple(f"model-{i}" for i in range(models)),
        methods=("magnitude", "wanda", "sparsegpt"),
        sparsities=tuple(round(i / (sparsities + 1), 6) for i in range(1, sparsities + 1)),
        seeds=tuple(range(SEEDS if seeds is None else seeds)),
    )
    return Planner(grid, PruneConfig(), FinetuneConfig()).build(synthetic_models(models))


def stage_costs(plan: Plan) -> dict[str, float]:
    """Return the seconds of every stage; models differ in size by a factor of eight."""
    return {
        stage.id: SECONDS.get(stage.kind, 0.0) * 2 ** (int(stage.model.split("-")[1]) % 4)
        for stage in plan.stages.values()
    }


def critical_path(plan: Plan, needed: set[str], costs: dict[str, float]) -> float:
    """Return the seconds of the longest chain from a dense model to any stage."""
    ends: dict[str, float] = {}
    for stage in itertools.chain.from_iterable(plan.walk(root.id) for root in plan.roots()):
        before = ends[stage.parent] if stage.parent is not None else 0.0
        ends[stage.id] = before + (costs[stage.id] if stage.id in needed else 0.0)
    return max(ends.values())


def seconds_of(steps: Steps) -> float:
    """Return the seconds of all steps of a trial."""
    return sum(seconds for seconds, _ in steps)


def simulate(
    trials: list[Trial],
    costs: dict[str, float],
    slots: int,
    bound: float,
    spot_seconds: float | None,
    seed: int = 0,
) -> Outcome:
    """Run the trials in simulation, the most expensive first, as Tune starts them."""
    rng = random.Random(seed)
    waiting = [[(costs[s.id], s.work.stores_weights) for s in trial.stages] for trial in trials]
    waiting.sort(key=seconds_of)
    work = sum(map(seconds_of, waiting))
    free = [0.0] * slots
    makespan = lost = 0.0
    interruptions = 0
    heapq.heapify(free)
    again: list[tuple[float, Steps]] = []
    while waiting or again:
        now = heapq.heappop(free)
        if again and (not waiting or again[0][0] <= now):
            since, stages = heapq.heappop(again)
            now = max(now, since)
        else:
            stages = waiting.pop()
        limit = rng.expovariate(1 / spot_seconds) if spot_seconds else float("inf")
        spent, done = START_SECONDS, 0
        for seconds, _ in stages:
            if spent + seconds > limit:
                break
            spent, done = spent + seconds, done + 1
        if done == len(stages):
            makespan = max(makespan, now + spent)
            heapq.heappush(free, now + spent)
            continue
        interruptions += 1
        seconds, resumes = stages[done]
        begun = max(0.0, limit - spent)
        kept = begun // CHECKPOINT_SECONDS * CHECKPOINT_SECONDS if resumes else 0.0
        lost += begun - kept
        heapq.heappush(again, (now + limit, [(seconds - kept, resumes), *stages[done + 1 :]]))
        heapq.heappush(free, now + limit + REPLACE_SECONDS)
    return Outcome(makespan, work, lost, interruptions, bound)


def pack(
    plan: Plan,
    cells: list[Cell],
    needed: set[str],
    costs: dict[str, float],
    slots: int,
    a_slot: int,
) -> list[Trial]:
    """Pack trials as sweeps do, with so many for each slot; 0 means one for each model."""
    with mock.patch("orchestrator.plan.trials.TRIALS_A_SLOT", a_slot):
        return pack_trials(plan, cells, needed, costs, slots if a_slot else 1)


def main() -> None:
    """Print the time of planning and the results of the schedules."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spot-hours", type=float, default=6.0)
    flags = parser.parse_args()
    for slots, grid in CASES:
        play(slots, grid, flags.spot_hours * 3600)


def play(slots: int, grid: Grid, spot_seconds: float) -> None:
    """Print the results of one grid on so many slots."""
    start = time.process_time()
    plan = build_plan(**grid)
    cells = list(plan.cells.values())
    needed = needed_stages(plan, cells, set(), set())
    costs = stage_costs(plan)
    pack_trials(plan, cells, needed, costs, slots)
    seconds = time.process_time() - start
    print(f"\n{len(cells):,} cells, {len(needed):,} stages; planned and packed in {seconds:.1f} s")
    longest = critical_path(plan, needed, costs)
    total = sum(costs[stage] for stage in needed)
    bound = max(longest, total / slots)
    print(
        f"{slots:,} slots: no schedule ends before {bound / 3600:.1f} h (longest chain "
        f"{longest / 3600:.1f},\n{total / 3600:,.0f} h of work / {slots:,} = "
        f"{total / slots / 3600:.1f}); mean of {SPOT_SEEDS} runs with spot"
    )
    print(f"{'trials':>12} {'':>6} {'hours':>6} {'use':>5} {'spot h':>7} use  lost")
    for a_slot in (0, 1, 2, 4, 8):
        trials = pack(plan, cells, needed, costs, slots, a_slot)
        name = f"{a_slot} a slot" if a_slot else "one a model"
        calm = simulate(trials, costs, slots, bound, None)
        spot = [
            simulate(trials, costs, slots, bound, spot_seconds, seed) for seed in range(SPOT_SEEDS)
        ]
        hours = fmean(run.makespan for run in spot) / 3600
        print(
            f"{name:>12} {len(trials):>6,} {calm.makespan / 3600:>6.1f} "
            f"{total / (calm.makespan * slots):>5.0%} {hours:>7.1f} "
            f"{total / (hours * 3600 * slots):.0%} {fmean(r.lost for r in spot) / total:>4.1%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
