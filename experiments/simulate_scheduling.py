"""Plans and packs a sweep of 10,000 cells for 1,000 slots, and plays it through without Ray.

    python experiments/simulate_scheduling.py [--slots 1000] [--models 20] [--spot-hours 6]

A discrete-event simulation: idle slots take trials in order, a trial costs a start-up and then its
stages one after another, a spot slot is lost now and then (exponential, mean --spot-hours), comes
back, and its trial goes on behind the last finished stage. Bounds: no schedule ends before the
longest chain of stages, nor before all work spread evenly over the slots.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
import resource
import time
from dataclasses import dataclass

from core.config import FinetuneConfig, PruneConfig
from orchestrator.cell import ModelInputs, TextInput
from orchestrator.config import GridConfig
from orchestrator.plan import Plan
from orchestrator.planner import Planner
from orchestrator.trials import Trial, needed_stages, pack_trials

START_SECONDS, REPLACE_SECONDS = 20.0, 180.0
"""A worker group's start, measured as 10 to 30 s; a spot node until it is back, assumed."""
SECONDS = {"prune": 300.0, "finetune": 900.0, "evaluate": 20.0}
SEEDS = 5


@dataclass(frozen=True)
class Outcome:
    """What a schedule comes to."""

    makespan: float
    work: float
    """Seconds of stages, each once."""
    lost: float
    """Seconds of half-done stages thrown away."""
    interruptions: int
    bound: float

    @property
    def overhead(self) -> float:
        """Makespan over the lower bound, less one."""
        return self.makespan / self.bound - 1


def synthetic_models(count: int) -> list[ModelInputs]:
    """Models that exist in name only."""
    text = TextInput("text", {"text": "t", "seq_len": 2048})
    calibration = TextInput("c", {"text": "c", "num_samples": 128, "seq_len": 2048})
    return [
        ModelInputs(
            name=f"model-{i}",
            identity=f"{i}",
            dtype="bfloat16",
            training_dtype="bfloat16",
            calibration=calibration,
            finetune=text,
            finetune_tokens=2**20,
            batch_tokens=16_384,
            evaluations=(text,),
        )
        for i in range(count)
    ]


def build_plan(num_models: int) -> Plan:
    """About 500 cells for each model."""
    grid = GridConfig(
        models=tuple(f"model-{i}" for i in range(num_models)),
        methods=("magnitude", "wanda", "sparsegpt"),
        sparsities=tuple(i / 20 for i in range(1, 20)),
        seeds=tuple(range(SEEDS)),
    )
    return Planner(grid, PruneConfig(), FinetuneConfig()).build(synthetic_models(num_models))


def stage_costs(plan: Plan) -> dict[str, float]:
    """Seconds of every stage; models differ in size by a factor of eight."""
    return {
        stage.id: SECONDS.get(stage.kind, 0.0) * 2 ** (int(stage.model.split("-")[1]) % 4)
        for stage in plan.stages.values()
    }


def critical_path(plan: Plan, needed: set[str], costs: dict[str, float]) -> float:
    """The longest chain from a dense model to any stage."""
    ends: dict[str, float] = {}
    for stage in itertools.chain.from_iterable(plan.walk(root.id) for root in plan.roots()):
        before = ends[stage.parent] if stage.parent is not None else 0.0
        ends[stage.id] = before + (costs[stage.id] if stage.id in needed else 0.0)
    return max(ends.values())


def simulate(
    trials: list[Trial],
    costs: dict[str, float],
    slots: int,
    bound: float,
    spot_seconds: float | None,
    seed: int = 0,
) -> Outcome:
    """Plays the trials through, dearest first, as Tune starts them in order."""
    rng = random.Random(seed)
    waiting = [[costs[stage.id] for stage in trial.stages] for trial in trials]
    waiting.sort(key=sum)
    work = sum(map(sum, waiting))
    free = [0.0] * slots
    makespan = lost = 0.0
    interruptions = 0
    heapq.heapify(free)
    again: list[tuple[float, list[float]]] = []
    while waiting or again:
        now = heapq.heappop(free)
        if again and (not waiting or again[0][0] <= now):
            since, stages = heapq.heappop(again)
            now = max(now, since)
        else:
            stages = waiting.pop()
        limit = rng.expovariate(1 / spot_seconds) if spot_seconds else float("inf")
        spent, done = START_SECONDS, 0
        for seconds in stages:
            if spent + seconds > limit:
                break
            spent, done = spent + seconds, done + 1
        if done == len(stages):
            makespan = max(makespan, now + spent)
            heapq.heappush(free, now + spent)
            continue
        interruptions += 1
        lost += max(0.0, limit - spent)
        heapq.heappush(again, (now + limit, stages[done:]))
        heapq.heappush(free, now + limit + REPLACE_SECONDS)
    return Outcome(makespan, work, lost, interruptions, bound)


def main() -> None:
    """Prints what planning took and what the schedules come to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slots", type=int, default=1000)
    parser.add_argument("--models", type=int, default=12)
    parser.add_argument("--spot-hours", type=float, default=6.0)
    flags = parser.parse_args()
    start = time.perf_counter()
    plan = build_plan(flags.models)
    cells = list(plan.cells.values())
    needed = needed_stages(plan, cells, set(), set())
    planned = time.perf_counter() - start
    costs = stage_costs(plan)
    start = time.perf_counter()
    packed = {n: pack_trials(plan, cells, needed, costs, n) for n in (1, flags.slots)}
    packing = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{len(cells):,} cells, {len(needed):,} stages of {len(plan.stages):,}")
    print(f"planning {planned:.2f} s, packing twice {packing:.2f} s, peak memory {peak:.2f} GiB")
    longest = critical_path(plan, needed, costs)
    total = sum(costs[stage] for stage in needed)
    bound = max(longest, total / flags.slots)
    print(
        f"lower bound {bound / 3600:.2f} h: longest chain {longest / 3600:.2f} h, "
        f"{total / 3600:,.0f} h of work / {flags.slots} slots = {total / flags.slots / 3600:.2f} h"
    )
    print(
        f"{'packed for':>10} {'trials':>7} {'spot':>5} {'makespan h':>11} {'above bound':>12} use"
    )
    for packed_for, trials in packed.items():
        most = max(sum(costs[stage.id] for stage in trial.stages) for trial in trials)
        print(f"{packed_for:>10}: longest trial {most / 3600:.1f} h")
        for spot in (None, flags.spot_hours * 3600):
            done = simulate(trials, costs, flags.slots, bound, spot)
            used = done.work / (done.makespan * flags.slots)
            print(
                f"{packed_for:>10} {len(trials):>7} {'yes' if spot else 'no':>5} "
                f"{done.makespan / 3600:>11.2f} {done.overhead:>11.0%} {used:>4.0%}"
                + (
                    f"   {done.interruptions} interruptions, {done.lost / done.work:.1%} lost"
                    if spot
                    else ""
                )
            )


if __name__ == "__main__":
    main()
