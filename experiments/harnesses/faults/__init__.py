"""Faults that a store and a sweep must survive, for `fault_harness.py`.

kills.py       kill a process before each of its file operations, one after the other
acts.py        the acts that are killed: publish, drop, collect, a whole walk, ...
disk.py        a local directory that behaves as an object store does
processes.py   several processes on one store
namespaces.py  processes that do not see each other, as in containers
objects.py     an object store that is slow, resets connections and half-writes
sweeps.py      real sweeps whose processes are killed
limits.py      real sweeps that lack room, memory or finite numbers, or whose files are damaged
"""
