"""The HTML page, static and live; the only package that imports Plotly."""
