"""Estimates of time, memory and disk before anything runs.

model_cost.py   counts of a model: parameters, operations, rates
machine.py      cores and memory of this machine, within the limits of its container
devices.py      a worker's part of a machine, and rates of CPUs and known GPUs
seconds.py      seconds of stages
memory.py       peak memory of a worker, part by part
streaming.py    peak memory of a worker whose model is streamed, one block at a time
plans.py        machines that one-shot cells fit, whole or streamed
training.py     the parts of memory that objectives and offloading change
solving.py      cost of the solvers
experts.py      work that the statistics of experts take
rates.py        rates of this machine, timed
forecast.py     all of it as lines of the dry run
keep_policy.py  the weights that `--keep` keeps, and their disk
"""
