"""Results: rows become points and curves, Parquet, and the table for the terminal; no Ray.

rows.py        one row of a cell and text, from the manifests of its stages
bought.py      columns of what pruning buys: bytes and seconds
schema.py      columns of a row, keys, order
record.py      the record that a sweep leaves: its settings, cells and the keys of their rows
gathering.py   rows of a store as results show them
names.py       names of targets and cells, for all outputs
points.py      rows of one target, averaged over seeds; the dense control
curves.py      points that belong together, and the settings that set curves apart
student.py     quantiles of Student's t
verdict.py     the one rule over seeds: which cell is better, and which are the best of a target
board.py       curves -> lines of methods and regimes, columns of targets, with their verdicts
answer.py      a board in words: how far a model can be pruned, and how sure that is
found.py       the answers of a search: how far each line goes within each ratio
details.py     errors of layers and losses of training, from manifests
published.py   perplexities that papers report
summary.py     the table and the answer that close a sweep
parquet.py     rows as a file
numbers.py     means, perplexities and times as text
versions.py    versions and hardware behind the numbers
"""
