"""Planning: grid -> cells -> stages -> trials. It is pure: nothing here reads a file or knows Ray.

inputs.py            models and texts of a grid as plain values
work.py              the base of all stage kinds
kinds.py             the stage kinds, one class each, and their table
training_kinds.py    those that train
stages.py            a stage: its work, its parent, its name
cell.py              a cell: its point of the grid, its settings, its stages
planner.py           blocks of settings -> cells and stages
plan.py              the plan: all cells and the trees of stages
crossing.py          the sparsity at which a curve crosses a ratio to the dense perplexity
missing.py           cells that lack a row or a stage
branches.py          branches of stages, cut into enough parts to keep all slots busy
trials.py            missing work -> trials
job.py               a trial with all that its workers need
changed_settings.py  the settings whose change makes a stage be missing
identity.py          hashes that name stages, cells, rows and token files
"""
