"""Measures of a model: perplexity, sparsity, counts, zero-shot tasks."""
