"""Measures of a model.

- `perplexity.py`, `likelihood.py`: perplexity per token, per word and per byte
- `gap.py`: the distance of predictions to those of the dense model
- `counts.py`: words and bytes of the evaluated tokens
- `sparsity.py`: the sparsity found, and the check that pruned weights are zero
- `sparse_bytes.py`: bytes of a pruned model in a sparse form
- `speed.py`: seconds of prefill and of decoding a token
- `zero_shot.py`: accuracy on tasks of lm-evaluation-harness
"""
