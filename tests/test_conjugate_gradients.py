"""Conjugate gradients: rows that are solved wait for no others, and each row ends as if alone."""

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from core.pruners.conjugate_gradients import CG_STEPS, descend_

ROWS, COLS = 24, 48


class Products(TorchDispatchMode):
    """The rows of each product with H."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[int] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket is torch.ops.aten.mm:
            self.rows.append(len(args[0]))
        return func(*args, **(kwargs or {}))


def problem(easy: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return weights, originals, free entries and H; the first `easy` rows have one free entry."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(4 * COLS, COLS, generator=generator, dtype=torch.float64)
    goal = torch.randn(ROWS, COLS, generator=generator, dtype=torch.float64)
    free = torch.rand(ROWS, COLS, generator=generator) > 0.5
    free[:easy] = False
    free[:easy, 3] = True
    return goal * free, goal, free, inputs.T @ inputs / len(inputs)


def test_solved_rows_take_no_part_in_later_products():
    kept, goal, free, hessian = problem(easy=ROWS - 2)
    with Products() as products:
        descend_(kept, goal, free, hessian)
    first, one, *others = products.rows
    # The first gives the residuals. One step solves a row with one free entry.
    assert (first, one) == (ROWS, ROWS) and set(others) == {2}
    assert 5 < len(others) < CG_STEPS


def test_no_product_is_taken_where_all_rows_are_solved():
    _, goal, free, hessian = problem(easy=0)
    kept = goal.clone()
    with Products() as products:
        descend_(kept, goal, free, hessian)
    assert products.rows == [ROWS] and torch.equal(kept, goal)


def test_each_row_ends_as_if_alone():
    kept, goal, free, hessian = problem(easy=ROWS // 2)
    alone = kept.clone()
    descend_(kept, goal, free, hessian)
    for row in range(ROWS):
        place = slice(row, row + 1)
        descend_(alone[place], goal[place], free[place], hessian)
    torch.testing.assert_close(kept, alone, rtol=1e-12, atol=1e-12)
    for row in range(ROWS):
        moving = free[row]
        exact = torch.linalg.solve(hessian[moving][:, moving], (hessian @ goal[row])[moving])
        torch.testing.assert_close(kept[row, moving], exact, rtol=1e-4, atol=1e-4)
        assert not kept[row, ~moving].any()
