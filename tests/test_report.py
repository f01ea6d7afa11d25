"""What a sweep tells of its rows."""

from __future__ import annotations

from orchestrator.record import gather, labels_of
from orchestrator.results import row_key


def test_rows_shared_by_two_protocols_go_by_the_name_of_the_sweep_that_asks():
    def row(regime, perplexity):
        known = {"model": "m", "regime": regime, "perplexity": perplexity, "protocol": "sparsegpt"}
        return known | {"eval_text": "wikitext2", "eval_seq_len": 128, "eval_stride": 128, "_x": 1}

    stored = {
        row_key("dense", "e0"): row("dense", 20.0),
        row_key("pruned", "e1"): row("oneshot", 30.0),
        row_key("other", "e2"): row("oneshot", 40.0),
    }
    names = (("dense", "e0"), ("pruned", "e1"))
    cells = [{"rows": {row_key(cell, text): "wikitext2:test"}} for cell, text in names]
    record = {"config": {"grid": {"protocol": "alps"}}, "cells": cells}
    dense, pruned, other = gather(stored, labels_of(record))
    assert pruned["protocol"] == dense["protocol"] == "alps"
    assert pruned["eval_text"] == "wikitext2:test" and pruned["dense_perplexity"] == 20.0
    assert (other["protocol"], other["in_current_grid"]) == ("sparsegpt", False)
    assert stored[row_key("pruned", "e1")]["protocol"] == "sparsegpt"
