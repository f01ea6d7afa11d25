"""Measures of a model.

- `perplexity.py`, `likelihood.py`: perplexity per token, per word and per byte
- `counts.py`: words and bytes of the evaluated tokens
- `sparsity.py`: the sparsity found, and the check that pruned weights are zero
- `zero_shot.py`: accuracy on tasks of lm-evaluation-harness
"""
