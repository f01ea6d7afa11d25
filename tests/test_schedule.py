"""The sparsities that an iterative branch passes through, and the tokens of its rounds."""

import pytest

from core.schedule import round_tokens, scheduled_path, structured_path, unstructured_path
from core.targets import MaskStructure, Target


def sparsities(path: list[Target]) -> list[float]:
    return [target.sparsity for target in path]


def test_the_grid_path_ends_on_its_target():
    assert sparsities(unstructured_path(0.7, [0.9, 0.3, 0.7, 0.5])) == [0.3, 0.5, 0.7]


def test_a_lower_target_is_a_prefix_of_a_higher_one():
    grid = [0.3, 0.5, 0.7, 0.9]
    for low, high in zip(grid, grid[1:]):
        assert unstructured_path(high, grid)[:-1] == unstructured_path(low, grid)


def test_a_sparsity_appended_on_top_changes_no_path_below():
    assert unstructured_path(0.5, [0.3, 0.5]) == unstructured_path(0.5, [0.3, 0.5, 0.95])


def test_the_linear_schedule_takes_equal_steps():
    assert sparsities(scheduled_path(0.8, 4, "linear")) == [0.2, 0.4, 0.6, 0.8]


def test_the_cubic_schedule_follows_zhu_and_gupta():
    # By hand: 0.8 * (1 - (1 - i/4)^3), with cubes 27/64, 8/64, 1/64 and 0.
    assert sparsities(scheduled_path(0.8, 4, "cubic")) == [0.4625, 0.7, 0.7875, 0.8]


@pytest.mark.parametrize("schedule", ["linear", "cubic"])
@pytest.mark.parametrize("num_rounds", [1, 2, 7])
def test_schedules_rise_to_the_target_itself(schedule, num_rounds):
    path = sparsities(scheduled_path(2 / 3, num_rounds, schedule))
    assert len(path) == num_rounds
    assert path == sorted(set(path)) and path[-1] == 2 / 3


def test_cubic_steps_shrink():
    path = [0.0, *sparsities(scheduled_path(0.9, 6, "cubic"))]
    steps = [b - a for a, b in zip(path, path[1:])]
    assert steps == sorted(steps, reverse=True)


def test_intermediate_sparsities_are_rounded_to_six_decimals():
    path = sparsities(scheduled_path(0.5, 3, "linear"))
    assert path == [0.166667, 0.333333, 0.5]


def test_structures_lose_one_survivor_a_round():
    path = structured_path(MaskStructure(1, 4))
    assert [target.mask_structure for target in path] == ["3:4", "2:4", "1:4"]
    assert sparsities(path) == [0.25, 0.5, 0.75]


def test_the_mildest_structure_takes_one_round():
    assert structured_path(MaskStructure(7, 8)) == [Target(0.125, "7:8")]


def test_a_round_budget_is_spent_in_every_round():
    assert round_tokens(1000, 3, "round") == [1000, 1000, 1000]


@pytest.mark.parametrize("num_rounds", [1, 3, 7])
def test_a_total_budget_is_split_with_the_remainder_last(num_rounds):
    tokens = round_tokens(1000, num_rounds, "total")
    assert sum(tokens) == 1000 and len(tokens) == num_rounds
    assert set(tokens[:-1]) <= {1000 // num_rounds}
    assert 0 <= tokens[-1] - 1000 // num_rounds < num_rounds
