"""Cells of several sweeps beside each other."""

import runpy
from pathlib import Path

from orchestrator.page.side_by_side import differing_settings, side_by_side

make_row = runpy.run_path(str(Path(__file__).with_name("synthetic_rows.py")))["make_row"]


def grid(*cells):
    return [make_row(**cell) for cell in cells]


def test_cells_match_whatever_their_settings_and_seeds_are_averaged():
    one = grid({"perplexity": 40.0, "seed": 0}, {"perplexity": 42.0, "seed": 1})
    two = grid({"perplexity": 50.0, "method_settings": '{"block_size": 64}'})
    ((key, values),) = side_by_side([one, two], [None, None])["cells"]
    assert key[2:] == ["wanda", "oneshot", "0.5"]
    assert values[0][0] == 41.0 and values[0][2] == 2
    assert values[1] == [50.0, None, 1, "done"]


def test_perplexities_of_other_protocols_or_windows_never_share_a_line():
    one = grid({"perplexity": 40.0})
    two = grid({"perplexity": 41.0, "protocol": "alps"}, {"perplexity": 42.0, "eval_seq_len": 512})
    cells = side_by_side([one, two], [None, None])["cells"]
    assert len(cells) == 3
    assert all(None in values for _, values in cells)


def test_failed_and_missing_cells_are_told_apart():
    one = grid({"status": "failed"}, {"sparsity": 0.7, "perplexity": 60.0})
    two = grid({"perplexity": 41.0})
    cells = {key[4]: values for key, values in side_by_side([one, two], [None, None])["cells"]}
    assert cells["0.5"] == [[None, None, 0, "failed"], [41.0, None, 1, "done"]]
    assert cells["0.7"][1] is None


def test_dense_comes_first_then_targets():
    dense = {"method": "dense", "regime": "dense", "sparsity": 0.0, "seed": None}
    one = grid({"mask_structure": "2:4"}, {"sparsity": 0.7}, {"sparsity": 0.3}, dense)
    cells = side_by_side([one, one], [None, None])["cells"]
    assert [key[4] for key, _ in cells] == ["0", "0.3", "0.7", "2:4"]


def test_settings_that_differ_are_listed_and_places_are_not():
    def record(lr, **more):
        output = {"output": {"out_dir": str(lr)}}
        return {"config": {"finetune": {"lr": lr, "text": None}} | output, "models": {}} | more

    told = differing_settings([record(3e-4), record(1e-4, versions={"torch": "2.13"})])
    assert told == [
        ("finetune.lr", ["0.0003", "0.0001"]),
        ("versions.torch", ["not recorded", "2.13"]),
    ]
    assert differing_settings([record(3e-4), record(3e-4)]) == []
