"""A trial: the stages of one model that one worker group walks, on each of its ranks. No Ray.

walk.py          the walk over the stages; shares them with other sweeps, and stops branches
cell_rows.py     the rows of cells, written as these complete
open_cells.py    the cells that are not settled, and the stages that they lack
runners.py       the function that runs each kind of stage
training.py      a training stage: one round for each learning rate
evaluation.py    perplexity on a text
speed.py         seconds of prefill and of decoding, with dense and sparse kernels
tasks.py         a zero-shot task
workspace.py     all that the stages share: tokens, and the way results are published
weights.py       weights of stages, in memory or from the store
manifests.py     manifests, remembered once they are found
blocks.py        finished blocks of a half-pruned stage
checkpoints.py   checkpoints of half-done stages
notice.py        the notice that a machine will be taken away
nodes.py         reads that happen once on each node
clock.py         seconds and peak memory of a stage
"""
