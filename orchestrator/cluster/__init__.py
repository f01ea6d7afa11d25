"""The cluster: the only package that imports Ray. It runs the trials of a sweep.

A sweep joins Ray (`connection`), counts the slots (`slots`) on the nodes that are up or may come
(`reach`) and gives all trials to Ray Tune (`tune`). Each trial is a driver (`driver`) that starts
worker groups of Ray Train (`worker`) until every cell of the trial has its rows. A group waits for
room that others hold (`room`). Workers with other code refuse their job (`sent_jobs`). If a group
dies, `diagnosis` says why, with `lost_peer` for words of gloo and nccl. `restarts` decides how
often and when it starts again, `failed_cells` which cells fail. Two callbacks end groups that hang
while they start (`placement`), and Ray's detector those that hang in nccl (`hang`). Stages that
need a process of their own, such as zero-shot tasks, run after the trials (`lone_stages`).

The terminal shows finished cells (`progress`) and Ray's messages in one line each (`messages`);
others see the sweep by a small file (`pulse`) or their own tracker (`trackers`). Private modules of
Ray are imported in `ray_internals` and `train_internals` only.
"""
