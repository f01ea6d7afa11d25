"""One cell's science: prune a causal language model, train it under its masks, measure it.

The data flow, with the file of each step:

    text -> token windows            texts and windows in data.py
    -> block inputs                  models.py finds the blocks, sequential.py walks them
    -> H or norms                    pruners/hessian.py, summed over ranks by parallel.py
    -> mask and weights              pruners/masks.py and one file per method
    -> masked training               finetune.py, or block by block reconstruct.py
    -> perplexity                    perplexity.py; measured sparsity in sparsity.py
    -> files                         checkpoint.py

No Ray, no Parquet, no plots here: rows and curves are the orchestrator's.
"""
