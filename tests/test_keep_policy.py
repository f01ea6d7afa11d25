"""The weights that a plan keeps, and the disk that they take."""

from types import SimpleNamespace

from orchestrator.estimate.keep_policy import KEEP_ALL_BELOW_BYTES, kept_bytes, stages_to_drop
from orchestrator.plan.plan import Plan
from orchestrator.plan.stages import Stage

PRUNES = SimpleNamespace(stores_weights=True, trains=False)
TRAINS = SimpleNamespace(stores_weights=True, trains=True)
EVALUATES = SimpleNamespace(stores_weights=False, trains=False)


def made(stage_id, work, model):
    return Stage(stage_id, work, model, "wanda", None)


def plan_of(**stages):
    """A pruned and then trained cell of each model, so many times."""
    plan = Plan({})
    for model, count in stages.items():
        for i in range(count):
            weights = [made(f"{model}p{i}", PRUNES, model), made(f"{model}t{i}", TRAINS, model)]
            evaluation = made(f"{model}e{i}", EVALUATES, model)
            plan.stages |= {stage.id: stage for stage in (*weights, evaluation)}
            plan.cells[f"{model}{i}"] = SimpleNamespace(stages=tuple(s.id for s in weights))
    return plan


def cost(pruned, trained):
    return SimpleNamespace(stage_bytes=lambda is_trained: trained if is_trained else pruned)


def test_each_models_stages_count_at_their_own_size():
    plan = plan_of(small=3, large=1)
    costs = {"small": cost(1.0, 2.0), "large": cost(100.0, 200.0)}
    assert kept_bytes(plan.stages.values(), costs, ()) == 3 * 3 + 300
    assert kept_bytes(plan.stages.values(), costs, {"larget0"}) == 3 * 3 + 100


def test_a_large_model_with_few_stages_leaves_all_kept_beside_many_small_ones():
    plan = plan_of(small=100, large=1)
    costs = {"small": cost(1e3, 1e3), "large": cost(1e8, 1e8)}
    assert stages_to_drop(plan, costs, None) == set()


def test_one_policy_holds_for_all_models():
    plan = plan_of(small=1, large=1)
    costs = {"small": cost(1.0, 1.0), "large": cost(KEEP_ALL_BELOW_BYTES, 1.0)}
    assert stages_to_drop(plan, costs, None) == {"smallp0", "largep0"}


def test_a_policy_asked_for_is_followed_whatever_the_size():
    plan, costs = plan_of(m=1), {"m": cost(1e12, 1e12)}
    assert stages_to_drop(plan, costs, "all") == set()
    assert stages_to_drop(plan, costs, "final") == {"mp0"}
    assert stages_to_drop(plan, costs, "none") == {"mp0", "mt0"}
