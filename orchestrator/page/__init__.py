"""The HTML page, static and live, and static pictures; it needs no Ray.

contents.py      all that the page shows, as JSON values
drawn.py         boards -> lines with their values in every dimension, and pairs compared
gains.py         what pruning buys: bytes and measured seconds, and words on them
packing.py       rows as columns
answers.py       the answer and the heat table of each board as HTML
picture.py       a board as a static picture in SVG, for the page and for an export
scale.py         axes of that picture
document.py      these and the assets -> one HTML file
notebook.py      a board as a Plotly figure for notebooks
notes.py         the notes beside a sweep
palette.py       colours, dashes and markers of methods and regimes
watched.py       an out-dir while a sweep writes to it
progress.py      how a sweep is doing: its cells, and whether it is alive
news.py          differences between two contents, for a live page
side_by_side.py  settings in which several sweeps differ
server.py        the live page's server
assets/          page.html, page.css and the scripts; views.js lists the views of the figure
"""
