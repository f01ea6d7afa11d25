"""Rows of a store as results show them."""

from __future__ import annotations

import pytest

from orchestrator.plan.identity import row_key
from orchestrator.results.gathering import copy_shared_rows, gather
from orchestrator.results.record import labels_of


class Rows:
    """The rows of a store, in memory."""

    def __init__(self) -> None:
        self.stored = {}

    def read(self):
        return dict(self.stored)

    def put(self, key, row):
        self.stored[key] = row


def ask(protocol, *keys, text="wikitext2"):
    """Labels of a sweep under a protocol that asks for these (cell, evaluation)."""
    cells = [{"rows": {row_key(*key): text}} for key in keys]
    return labels_of({"config": {"grid": {"protocol": protocol}}, "cells": cells})


def row(regime, perplexity):
    known = {"model": "m", "regime": regime, "perplexity": perplexity, "protocol": "sparsegpt"}
    return (
        known
        | {"eval_text": "wikitext2", "eval_seq_len": 128, "eval_stride": 128}
        | {
            "stage_id": "s",
            "_x": 1,
            "_evaluation": f"{regime} alone",
            "_dense_evaluation": "dense alone",
        }
    )


@pytest.fixture
def store():
    """A dense and two pruned cells, run by a sweep under the protocol `sparsegpt`."""
    store = Rows()
    store.put(row_key("dense", "e0"), row("dense", 20.0))
    store.put(row_key("pruned", "e1"), row("oneshot", 30.0))
    store.put(row_key("other", "e2"), row("oneshot", 40.0))
    return store


def told(store, labels):
    copy_shared_rows(store, labels)
    fields = ("protocol", "regime", "perplexity", "dense_perplexity", "in_current_grid")
    return sorted(tuple(row[field] for field in fields) for row in gather(store.read(), labels))


FIRST = [("dense", "e0"), ("pruned", "e1"), ("other", "e2")]
SECOND = [("dense", "e0"), ("pruned", "e1")]


def test_rows_shared_by_two_protocols_stay_apart(store):
    assert told(store, ask("alps", *SECOND)) == [
        ("alps", "dense", 20.0, 20.0, True),
        ("alps", "oneshot", 30.0, 20.0, True),
        ("sparsegpt", "dense", 20.0, 20.0, False),
        ("sparsegpt", "oneshot", 30.0, 20.0, False),
        ("sparsegpt", "oneshot", 40.0, 20.0, False),
    ]
    # The first sweep again: its own rows are current, and the second's are still there.
    again = told(store, ask("sparsegpt", *FIRST))
    assert [row[0] for row in again] == ["alps"] * 2 + ["sparsegpt"] * 3
    assert [row[4] for row in again] == [False] * 2 + [True] * 3
    assert told(store, ask("sparsegpt", *FIRST)) == again, "nothing is copied twice"


def test_a_row_computed_again_changes_under_both_protocols(store):
    told(store, ask("alps", *SECOND))
    store.put(row_key("pruned", "e1"), row("oneshot", 31.0))
    both = {r[0] for r in told(store, ask("sparsegpt", *FIRST)) if r[2] == 31.0}
    assert both == {"alps", "sparsegpt"}


def test_a_text_under_another_name_has_a_row_of_its_own(store):
    labels = ask("sparsegpt", *SECOND, text="wikitext2:test")
    copy_shared_rows(store, labels)
    rows = gather(store.read(), labels)
    current = [row for row in rows if row["in_current_grid"]]
    assert {row["eval_text"] for row in current} == {"wikitext2:test"} and len(current) == 2
    assert len(rows) == 5 and not any("_x" in row for row in rows)


def test_results_of_tasks_stand_in_every_row_of_their_stage(store):
    rows = gather(store.read(), {}, {"s": {"task:tiny:acc": 0.5}})
    assert [row["task:tiny:acc"] for row in rows] == [0.5] * 3


# The dense model's perplexity beside a pruned one's -----------------------------------------------


def dense_beside(*rows):
    """Dense perplexities of the pruned ones among rows that are stored under `k0`, `k1`, ..."""
    stored = {f"k{i}": row for i, row in enumerate(rows)}
    return [r["dense_perplexity"] for r in gather(stored, {}) if r["regime"] != "dense"]


def both_ways(*rows):
    """Like `dense_beside`; asserts that the order of the rows does not matter."""
    (found,) = {tuple(dense_beside(*order)) for order in (rows, rows[::-1])}
    return found


def test_a_row_is_compared_with_the_evaluation_that_it_names():
    one = row("dense", 20.0) | {"_evaluation": "d1"}
    other = row("dense", 25.0) | {"_evaluation": "d2"}
    pruned = row("oneshot", 30.0) | {"_evaluation": "p", "_dense_evaluation": "d1"}
    assert both_ways(one, other, pruned) == (20.0,)
    assert both_ways(other, pruned) == (None,), "that of another evaluation is worse than none"


def test_a_copy_outlives_a_row_that_cannot_be_read(store):
    told(store, ask("alps", *SECOND))
    del store.stored[row_key("pruned", "e1")]
    assert ("alps", "oneshot", 30.0) in {r[:3] for r in told(store, ask("sparsegpt", *FIRST))}
