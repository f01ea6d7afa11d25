"""Many cells, on Ray: plan, run, collect, draw. Knows core; core does not know it."""
