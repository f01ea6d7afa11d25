"""The science of one cell: prune a causal language model, train it under its masks, measure it.

The flow, with the file of each step:

    name -> model -> blocks            models/sources.py, models/loading.py, models/blocks.py
    name -> text -> token windows      texts/sources.py, texts/content.py, texts/windows.py
    files -> a rank's rows of weights  models/weight_files.py, sharded by models/sharding.py
    walk over blocks, their inputs     sequential.py, activations.py; resumed by finished_blocks.py
    inputs of experts, of one group    expert_statistics.py, expert_windows.py, groups.py
    sparsity of each matrix            allocation.py; the path of rounds in schedule.py
    solves shared by ranks             solving.py; plan, factor and choice of masks in split/
    inputs -> H -> mask and weights    pruners/hessian.py, pruners/masks.py, a file for each method
    masked training                    training/finetune.py, training/reconstruction.py
    perplexity, sparsity, tasks        measures/
    model and masks -> files           models/saving.py, models/mask_files.py

Settings are in config.py, calibration_config.py, training_config.py and joint_config.py, targets in
targets.py, facts about methods in methods.py; typed_values.py gives settings the types of their
fields. hub/ tells the identity of hub content and how to download it. Several ranks work on one
model through ranks.py and parallel.py, and ask questions at the pace of pace.py.
Dtypes are chosen in precision.py, and accelerator.py tells a CPU from other devices. checks.py
refuses bad input. Core knows no Ray, Parquet or plots; rows and curves belong to the orchestrator.
"""
