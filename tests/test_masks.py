"""Who survives: exact counts, ties by position, earlier masks kept, quotas of blocks."""

import pytest
import torch

from core.pruners.masks import (
    at_least,
    block_quotas,
    choose,
    group_mask,
    kth_smallest,
    lowest,
    num_pruned,
    row_mask,
    unstructured_mask,
)
from core.targets import MaskStructure, Target

pytestmark = pytest.mark.usefixtures("each_way")


def random_mask(shape: tuple[int, ...], sparsity: float, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator) >= sparsity


def test_lowest_marks_the_smallest():
    scores = torch.tensor([[3.0, 1.0, 2.0, 0.5], [9.0, 8.0, 7.0, 6.0]])
    expected = torch.tensor([[False, True, False, True], [False, False, True, True]])
    assert torch.equal(lowest(scores, 2), expected)


def test_lowest_breaks_ties_by_position():
    scores = torch.tensor([2.0, 1.0, 1.0, 0.0, 1.0, 1.0])
    expected = torch.tensor([False, True, True, True, False, False])
    assert torch.equal(lowest(scores, 3), expected)


@pytest.mark.parametrize("count", range(10))
def test_lowest_is_exact_when_all_scores_are_equal(count):
    assert lowest(torch.ones(3, 9), count).sum(1).tolist() == [count] * 3


def test_lowest_is_exact_with_infinite_scores():
    scores = torch.tensor([-torch.inf, torch.inf, -torch.inf, 0.0, torch.inf])
    for count in range(6):
        assert int(lowest(scores, count).sum()) == count


def long_rows() -> dict[str, torch.Tensor]:
    """Long rows: sorted, with equal and infinite scores, with patterns."""
    generator = torch.Generator().manual_seed(0)
    size = 20_487
    normal = torch.randn(size, generator=generator)
    hidden = torch.zeros(size)
    hidden[1::2] = normal[1::2]
    return {
        "normal": normal,
        "sorted": normal.sort().values,
        "equal": torch.ones(size),
        "few values": torch.randint(0, 3, (size,), generator=generator).float(),
        "infinite": normal.masked_fill(normal < 0, -torch.inf),
        "half hidden": hidden,
        "nine tenths infinite": normal.masked_fill(normal < 1.28, -torch.inf),
        "one outlier": torch.zeros(size).index_fill_(0, torch.tensor([5]), -1.0),
        "pattern": (torch.arange(size) % 11).float(),
    }


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("name", long_rows())
def test_the_kth_smallest_of_a_long_row_is_exact(name, share):
    row = long_rows()[name]
    k = max(1, round(share * len(row)))
    assert kth_smallest(row, k).item() == row.sort().values[k - 1].item()
    assert int(lowest(row, k).sum()) == k


@pytest.mark.parametrize("sparsity", [0.0, 1 / 3, 0.123, 0.5, 0.999, 1.0])
def test_unstructured_count_is_the_nearest_whole_number(sparsity):
    scores = torch.rand(7, 11, generator=torch.Generator().manual_seed(0))
    mask = unstructured_mask(scores, sparsity)
    assert int((~mask).sum()) == num_pruned(sparsity, 77) == round(sparsity * 77)


def test_unstructured_compares_within_the_whole_matrix():
    scores = torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]])
    expected = torch.tensor([[False] * 3, [True] * 3])
    assert torch.equal(unstructured_mask(scores, 0.5), expected)


def test_rows_prune_the_same_count_each():
    scores = torch.tensor([[1.0, 2.0, 3.0], [30.0, 20.0, 10.0]])
    expected = torch.tensor([[False, True, True], [True, True, False]])
    assert torch.equal(row_mask(scores, 1 / 3), expected)


def test_groups_keep_their_highest_scores():
    scores = torch.tensor([[4.0, 1.0, 3.0, 2.0, 9.0, 8.0, 7.0, 6.0]])
    expected = torch.tensor([[True, False, True, True, True, True, True, False]])
    assert torch.equal(group_mask(scores, MaskStructure(3, 4)), expected)


@pytest.mark.parametrize(("survivors", "group"), [(1, 2), (2, 4), (3, 4), (4, 8), (5, 9)])
def test_groups_break_ties_by_position(survivors, group):
    # Scores of three values in more groups than are compared at once.
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 3, (3, 3000 * group), generator=generator).float()
    order = scores.view(-1, group).sort(dim=1, stable=True).indices
    expected = torch.ones(len(order), group, dtype=torch.bool)
    expected.scatter_(1, order[:, : group - survivors], False)
    found = group_mask(scores, MaskStructure(survivors, group))
    assert torch.equal(found, expected.view_as(scores))


def test_a_target_rises_to_what_earlier_masks_pruned():
    earlier = random_mask((7, 11), 0.6, seed=0)
    gone = int((~earlier).sum())
    assert num_pruned(at_least(Target(0.5), earlier).sparsity, 77) == gone
    assert at_least(Target(0.9), earlier) == Target(0.9)
    assert at_least(Target.structured("2:4"), earlier) == Target.structured("2:4")


def test_earlier_masks_go_first_whatever_their_score():
    scores = torch.tensor([[9.0, 1.0, 2.0, 3.0]])
    earlier = torch.tensor([[False, True, True, True]])
    for target in (Target(0.5), Target.structured("2:4")):
        expected = torch.tensor([[False, False, True, True]])
        assert torch.equal(choose(scores, target, earlier), expected)
        assert torch.equal(choose(scores, target, earlier, by_row=True), expected)


def test_earlier_masks_beyond_an_unstructured_target_are_kept():
    earlier = random_mask((6, 8), 0.7, seed=0)
    assert torch.equal(unstructured_mask(torch.rand(6, 8), 0.5, earlier), earlier)


def test_earlier_groups_beyond_the_structure_are_refused():
    earlier = torch.tensor([[False, False, False, True]])
    with pytest.raises(
        ValueError, match="--mask-structures 2:4: .* more than 2 of 4 .* 1 groups; use"
    ):
        group_mask(torch.rand(1, 4), MaskStructure(2, 4), earlier)


def test_earlier_rows_beyond_the_target_are_kept():
    earlier = torch.tensor([[False, False, True, True], [True, True, True, True]])
    found = row_mask(torch.tensor([[4.0, 3, 2, 1], [1, 2, 3, 4]]), 0.25, earlier)
    assert torch.equal(found, torch.tensor([[False, False, True, True], [False, True, True, True]]))


def test_choosing_changes_neither_scores_nor_earlier_masks():
    scores, earlier = torch.rand(4, 8), random_mask((4, 8), 0.2, seed=1)
    copies = scores.clone(), earlier.clone()
    for target in (Target(0.75), Target.structured("1:8")):
        choose(scores, target, earlier)
    assert torch.equal(scores, copies[0]) and torch.equal(earlier, copies[1])


def test_a_width_that_groups_do_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"--mask-structures 2:4.*10 inputs"):
        choose(torch.rand(3, 10), Target.structured("2:4"))


@pytest.mark.parametrize("sparsity", [0.0, 0.123, 1 / 3, 0.5, 0.987, 1.0])
@pytest.mark.parametrize("ends", [[24], [5, 10, 15, 20, 24], list(range(1, 25))])
def test_blocks_prune_the_rounded_cumulative_count(sparsity, ends):
    quotas = block_quotas(7, 24, ends, sparsity, None)
    done = 0
    for end, quota in zip(ends, quotas, strict=True):
        done += quota
        assert done == round(sparsity * 7 * end)


def test_blocks_after_a_dense_earlier_block_make_up_for_it():
    # 10 rows, 3 blocks of 4 columns, half of 120 pruned; earlier masks took all of the first.
    earlier = torch.ones(10, 12, dtype=torch.bool)
    earlier[:, :4] = False
    assert block_quotas(10, 12, [4, 8, 12], 0.5, earlier) == [40, 0, 20]


def test_blocks_before_a_dense_earlier_block_leave_room_for_it():
    earlier = torch.ones(10, 12, dtype=torch.bool)
    earlier[:, 4:] = False
    earlier[:5, 4:8] = True
    assert block_quotas(10, 12, [4, 8, 12], 0.5, earlier) == [0, 20, 40]


@pytest.mark.parametrize("seed", range(40))
def test_quotas_hold_the_total_and_every_earlier_mask(seed):
    generator = torch.Generator().manual_seed(seed)
    rows, width, sparsity = 9, 4, seed / 39
    # Blocks of earlier masks between empty and full, whatever the target.
    density = torch.rand(6, generator=generator).round(decimals=1).repeat_interleave(width)
    earlier = torch.rand(rows, 24, generator=generator) < density
    ends = list(range(width, 25, width))
    quotas = block_quotas(rows, 24, ends, sparsity, earlier)
    assert sum(quotas) == max(round(sparsity * rows * 24), int((~earlier).sum()))
    for end, quota in zip(ends, quotas, strict=True):
        assert int((~earlier[:, end - width : end]).sum()) <= quota <= rows * width
