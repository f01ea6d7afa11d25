"""Many cells: plan, run, collect, draw. It knows core, and core does not know it.

The flow of a sweep, with the package of each step:

    models, texts -> tokens          inputs/, checked before anything runs
    grid -> cells -> stages          plan/, which is pure
    -> time and memory               estimate/
    -> trials on slots               cluster/, the only package that imports Ray
    -> stages                        trial/, on each rank of a worker group
    -> weights and rows on disk      store/, whole or not at all
    -> Parquet, points, curves       results/
    -> page                          page/
    -> tables, figures, models       publish/

The commands join the packages: `cli.py` and `sweep.py` run a sweep, `browse.py` shows one. A sweep
goes through `preparation.py`, then `dry_run.py` or `jobs.py` and `report.py`. `worker_cores.py`
shares out the cores of one machine. `repeat.py` runs one cell again. `failure.py` puts errors into
words, and `interruption.py` handles Ctrl-C.

The settings in `config.py` are the flags: `flags.py` reads them, `help.py` explains them, and
`unread_flags.py` refuses those that have no effect. Several values of a flag are an axis
(`axes.py`). Combinations of values, and the blocks of a file (`grid_file.py`), become blocks: whole
settings of one sweep (`block_flags.py`, `blocks.py`).
"""
