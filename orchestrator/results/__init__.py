"""Results: rows become Parquet, points and curves, and a table for the terminal."""
