import importlib.util
import sys
import tracemalloc
from collections import Counter
from pathlib import Path
from time import process_time

import pytest

from orchestrator.plan.branches import cut_branches
from orchestrator.plan.identity import identity
from orchestrator.plan.trials import TRIALS_A_SLOT, needed_stages, pack_trials, shared_stages

PATH = Path(__file__).resolve().parents[1] / "experiments" / "benches" / "simulate_scheduling.py"
SPEC = importlib.util.spec_from_file_location("simulate_scheduling", PATH)
assert SPEC is not None and SPEC.loader is not None
simulation = importlib.util.module_from_spec(SPEC)
sys.modules[SPEC.name] = simulation
SPEC.loader.exec_module(simulation)


@pytest.fixture(scope="module")
def small():
    plan = simulation.build_plan(2)
    cells = list(plan.cells.values())
    return plan, cells, needed_stages(plan, cells, set(), set()), simulation.stage_costs(plan)


def test_ten_thousand_cells_for_a_thousand_slots_are_planned_in_seconds():
    start = process_time()
    plan = simulation.build_plan(12)
    cells = list(plan.cells.values())
    needed = needed_stages(plan, cells, set(), set())
    trials = pack_trials(plan, cells, needed, simulation.stage_costs(plan), 1000)
    seconds = process_time() - start
    assert len(cells) >= 10_000
    # Processor time, which other work on the machine changes little: 5 s were measured.
    assert seconds < 15
    assert {stage.id for trial in trials for stage in trial.stages} == needed


def test_thirty_thousand_cells_fit_in_300_megabytes():
    tracemalloc.start()
    plan = simulation.build_plan(4)
    cells = list(plan.cells.values())
    needed = needed_stages(plan, cells, set(), set())
    trials = pack_trials(plan, cells, needed, simulation.stage_costs(plan), 100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(len(trial.cells) for trial in trials) == len(cells)
    assert peak / len(cells) * 30_000 < 300e6


def operations(function):
    """Return how many Python operations a call takes: the same on any machine."""
    count = 0

    def trace(frame, event, arg):
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return count


def test_work_of_planning_and_packing_grows_as_the_grid_does(monkeypatch):
    monkeypatch.setattr(simulation, "SEEDS", 1)

    def plan_and_pack(models, slots):
        plan = simulation.build_plan(models)
        cells = list(plan.cells.values())
        needed = needed_stages(plan, cells, set(), set())
        trials = pack_trials(plan, cells, needed, simulation.stage_costs(plan), slots)
        assert trials and all(plan.root_of(trial.model) for trial in trials)

    few, many = (operations(lambda n=n: plan_and_pack(n, 20 * n)) for n in (1, 4))
    assert many < 4.2 * few


def test_each_stage_is_hashed_about_once(monkeypatch):
    hashed = []

    def count(value):
        hashed.append(value)
        return identity(value)

    monkeypatch.setattr("orchestrator.plan.stages.identity", count)
    plan = simulation.build_plan(1)
    assert len(hashed) == len(plan.stages)


@pytest.mark.parametrize("slots", [1, 7, 1000])
def test_every_cell_is_in_one_trial_that_runs_all_it_needs(small, slots):
    plan, cells, needed, costs = small
    trials = pack_trials(plan, cells, needed, costs, slots)
    assert sorted(cell.id for t in trials for cell in t.cells) == sorted(c.id for c in cells)
    assert {stage.id for trial in trials for stage in trial.stages} == needed
    for trial in trials:
        runs = {stage.id for stage in trial.stages}
        order = {stage.id: i for i, stage in enumerate(trial.stages)}
        assert len(order) == len(trial.stages), "a stage once in a trial"
        for cell in trial.cells:
            assert {*cell.all_stages()} & needed <= runs
        for stage in trial.stages:
            if stage.parent in needed:
                assert order[stage.parent] < order[stage.id]


def test_only_stages_without_a_seed_are_repeated_and_cost_next_to_nothing(small):
    plan, cells, needed, costs = small
    trials = pack_trials(plan, cells, needed, costs, 1000)
    repeated = shared_stages(trials)
    assert repeated
    for stage_id in repeated:
        above = plan.stages[stage_id]
        weights = plan.stages[above.parent] if above.kind == "evaluate" else above
        assert "seed" not in weights.fields
    packed = sum(costs[stage.id] for trial in trials for stage in trial.stages)
    assert packed < 1.05 * sum(costs[stage] for stage in needed)
    assert shared_stages(pack_trials(plan, cells, needed, costs, 1)) == set()


def test_branches_are_cut_only_as_fine_as_the_number_of_trials_asks_for(small):
    plan, _, needed, costs = small

    def cut(count):
        branches = [b for group in cut_branches(plan, needed, costs, count).values() for b in group]
        walked = Counter(stage.id for branch in branches for stage in branch.stages)
        return len(branches), sum(times > 1 for times in walked.values())

    few, many = cut(4), cut(1000)
    assert few[0] < many[0], "more trials ask for more branches"
    assert few[1] < many[1], "and repeat more stages"


@pytest.mark.parametrize(("slots", "repeated"), [(4, 2), (25, 4)])
def test_few_slots_repeat_few_stages(small, slots, repeated):
    plan, cells, needed, costs = small
    assert len(shared_stages(pack_trials(plan, cells, needed, costs, slots))) == repeated


def test_with_a_slot_for_every_chain_the_longest_chain_is_the_makespan(small):
    plan, cells, needed, costs = small
    bound = simulation.critical_path(plan, needed, costs)
    trials = pack_trials(plan, cells, needed, costs, 1000)
    assert simulation.simulate(trials, costs, 1000, bound, None).overhead < 0.05


@pytest.mark.parametrize(("slots", "grid"), [simulation.CASES[0], simulation.CASES[2]])
def test_nine_tenths_of_the_slots_are_used_though_spot_machines_are_lost(slots, grid):
    plan = simulation.build_plan(**grid)
    cells = list(plan.cells.values())
    needed, costs = needed_stages(plan, cells, set(), set()), simulation.stage_costs(plan)
    trials = pack_trials(plan, cells, needed, costs, slots)
    done = simulation.simulate(trials, costs, slots, 1.0, 6 * 3600.0)
    assert done.interruptions > slots
    assert sum(costs[stage] for stage in needed) > 0.9 * done.makespan * slots


def test_slots_go_where_the_work_is(small):
    plan, cells, needed, costs = small
    heavy = {
        s: cost * (50 if plan.stages[s].model == "model-1" else 1) for s, cost in costs.items()
    }
    trials = pack_trials(plan, cells, needed, heavy, 40)
    assert len(trials) <= 40 * TRIALS_A_SLOT
    counts = {name: sum(t.model == name for t in trials) for name in ("model-0", "model-1")}
    assert counts["model-1"] > 3 * counts["model-0"]


def test_no_schedule_beats_the_lower_bound(small):
    plan, cells, needed, costs = small
    total = sum(costs[stage] for stage in needed)
    longest = simulation.critical_path(plan, needed, costs)
    for slots in (1, 8, 64):
        trials = pack_trials(plan, cells, needed, costs, slots)
        bound = max(longest, total / slots)
        done = simulation.simulate(trials, costs, slots, bound, None)
        assert total <= done.work < 1.05 * total
        assert done.makespan >= bound
        assert done.interruptions == 0


def test_one_slot_does_the_work_and_one_start_a_trial(small):
    plan, cells, needed, costs = small
    trials = pack_trials(plan, cells, needed, costs, 1)
    done = simulation.simulate(trials, costs, 1, 1.0, None)
    assert done.makespan == pytest.approx(done.work + len(trials) * simulation.START_SECONDS)


def test_an_interruption_loses_what_no_checkpoint_has_not_a_trial(small):
    plan, cells, needed, costs = small
    trials = pack_trials(plan, cells, needed, costs, 8)
    calm = simulation.simulate(trials, costs, 8, 1.0, None)
    rough = simulation.simulate(trials, costs, 8, 1.0, 6 * 3600.0)
    assert rough.interruptions > 0
    assert rough.work == pytest.approx(calm.work)
    most = max(cost for s, cost in costs.items() if not plan.stages[s].work.stores_weights)
    most = max(most, simulation.CHECKPOINT_SECONDS)
    assert 0 < rough.lost <= rough.interruptions * most
    assert rough.makespan > calm.makespan
