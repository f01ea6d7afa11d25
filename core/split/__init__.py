"""Work on one matrix that several ranks share: each solves some of its rows.

selection.py    the lowest scores of a whole matrix, each rank holding those of its rows
factor.py       the triangular factor of a Hessian, its columns dealt out to ranks
costs.py        cost model: operations, calls, messages
plan.py         the ranks that solve the matrices of each input of a block
"""
