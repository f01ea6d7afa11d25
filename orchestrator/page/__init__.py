"""The HTML page, static and live; the only package that imports Plotly, and it needs no Ray.

figure.py        curves -> the figure of perplexity over sparsity
traces.py        one curve -> its traces
palette.py       colours, dashes and markers of methods and regimes
contents.py      all that the page shows, as JSON values
document.py      those values and the assets -> one HTML file
watched.py       an out-dir while a sweep writes to it
progress.py      how a sweep is doing: its cells, and whether it is alive
side_by_side.py  cells of several sweeps beside each other
server.py        the live page's server
assets/          page.html, page.css and the scripts; views.js lists the views of the figure
"""
