"""Publishing: everything that leaves a sweep for others to read.

tables.py             boards with captions, as pure data
typesetting.py        tables -> Markdown, LaTeX, CSV
export.py             tables and figures of a sweep as files; page/picture.py draws the figures
comparison.py         our rows beside a paper's table, each with a bound
verdict.py            what a preset prints after its sweep, and its exit code
model_directory.py    a cell's weights as a Hugging Face directory
model_card.py         the card in that directory
recompute_command.py  the command that computes weights again that were not kept
sparse_files.py       weights without their zeros
"""
