"""Masked training: pruned weights stay zero while the others train.

- `finetune.py`: one round of training; the loop over next-token or distillation losses
- `elsa.py`, `splitting.py`: training that finds its masks, in the same loop
- `reconstruction.py`: the loop over the halves (`halves.py`) of each block
- `adaptive.py`: objective and learning rate of a round by the damage
- `losses.py`, `optimizer.py`: the loss of each token; AdamW under masks and its schedule
- `mixed_precision.py`: the model that trains in bf16, on the same float32 weights
- `trainable.py`, `lora.py`: the parameters that train; masked low-rank updates
- `loop.py`, `checkpoints.py`, `recompute.py`: progress, half-done rounds, less memory
"""
