"""Gains of pruning: bytes in a sparse form, and seconds with the device that they are of."""

import dataclasses
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, OPTForCausalLM

from core.checks import BadInputError
from core.config import EvalConfig
from core.measures.sparse_bytes import mask_bytes, sparse_bytes
from core.measures.sparsity import SparsityReport
from core.measures.speed import WARM_UPS, Timing, measure_speed
from core.models.semi_structured import with_sparse_kernels
from orchestrator.config import GridConfig, ResourceConfig, SweepConfig
from orchestrator.plan.kinds import Speed
from orchestrator.plan.stages import Stage
from orchestrator.results.parquet import to_table
from orchestrator.store.store import Store

_conftest = runpy.run_path(str(Path(__file__).with_name("conftest.py")))
_walked = runpy.run_path(str(Path(__file__).with_name("walked.py")))
walk, rows_of = _walked["walk"], _walked["rows_of"]
QUICK = {"prompt_tokens": 8, "new_tokens": 2, "repeats": 2}


def test_bytes_are_those_of_values_and_one_bit_a_weight():
    # 3 x 5 weights with 7 pruned, 4 x 4 as 2:4, and one matrix that nothing was pruned of.
    report = SparsityReport({"a": 7, "b": 8, "c": 0}, {"a": 15, "b": 16, "c": 100})
    masks = mask_bytes(report.pruned, report.total)
    assert masks == 2 + 2, "whole bytes for each matrix; c is stored dense"
    parameters = 15 + 16 + 100 + 9
    by_hand = 8 * 2 + 2 + 8 * 2 + 2 + 100 * 2 + 9 * 2
    assert sparse_bytes(parameters, report.num_pruned, masks, itemsize=2) == by_hand


def test_two_of_four_takes_two_bits_for_each_of_its_values():
    values, places = 64 * 64 // 2, 64 * 64 // 2 * 2 // 8
    masks = mask_bytes({"w": 2048}, {"w": 4096})
    assert sparse_bytes(4096, 2048, masks, itemsize=4) == 4 * values + places


def test_a_mask_costs_more_than_it_saves_below_one_bit_a_value():
    masks = mask_bytes({"w": 40}, {"w": 1000})
    assert sparse_bytes(1000, 40, masks, itemsize=2) > 2000, "4 % of 16 bits is less than one bit"


def test_a_timing_is_the_median_with_the_distance_of_the_quartiles():
    assert Timing.of([1.0, 2.0, 3.0, 4.0, 50.0]) == Timing(3.0, 2.0)


def test_prefill_reads_the_prompt_once_and_each_token_after_it_alone():
    model = OPTForCausalLM(_conftest["tiny_opt_config"]()).train()
    asked = []
    forward = model.forward

    def watched(input_ids, past_key_values=None, use_cache=None, logits_to_keep=0):
        cached = 0 if past_key_values is None else past_key_values.get_seq_length()
        asked.append((tuple(input_ids.shape), cached, logits_to_keep))
        return forward(
            input_ids=input_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
        )

    model.forward = watched
    speed = measure_speed(model, torch.zeros(1, 6, dtype=torch.long), num_new=2, repeats=3)
    turn = [((1, 6), 0, 1), ((1, 1), 6, 1), ((1, 1), 7, 1)]
    assert asked == turn * (WARM_UPS + 3)
    assert speed.prefill.seconds > 0 and speed.decode.seconds > 0
    assert model.training, "the model is left as it was"


def test_sparse_kernels_get_every_prunable_matrix_of_a_copy(monkeypatch):
    packed = []
    monkeypatch.setattr(
        torch.sparse, "to_sparse_semi_structured", lambda w: packed.append(w) or w * 2
    )
    model = OPTForCausalLM(_conftest["tiny_opt_config"]())
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    sparse = with_sparse_kernels(model)
    assert len(packed) == 6 * model.config.num_hidden_layers
    assert all(torch.equal(before[n], w) for n, w in model.state_dict().items())
    weight = sparse.model.decoder.layers[0].fc1.weight
    assert torch.equal(weight, 2 * model.model.decoder.layers[0].fc1.weight)


def test_weights_stored_the_other_way_round_have_no_sparse_kernels():
    tiny = GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=16, n_positions=16)
    with pytest.raises(RuntimeError, match=r"stored as \[in, out\]"):
        with_sparse_kernels(GPT2LMHeadModel(tiny))


def test_a_speed_has_an_identity_for_each_device():
    ids = {Stage.of(Speed("float32"), "m", "d", "p", {"device": d}).id for d in ("cpu", "cuda")}
    assert len(ids) == 2


def test_several_workers_are_refused_in_one_line():
    with pytest.raises(BadInputError, match="--eval.speed True: needs --num-workers 1"):
        SweepConfig(eval=EvalConfig(speed=True), resources=ResourceConfig(num_workers=2))


@pytest.fixture
def quick(monkeypatch):
    """Speed stages of a few short turns."""
    init = Speed.__init__
    monkeypatch.setattr(Speed, "__init__", lambda self, dtype: init(self, dtype, **QUICK))


@pytest.mark.usefixtures("one_thread", "quick")
def test_speed_is_added_to_a_finished_sweep_and_changes_no_other_number(two_cells):
    grid = GridConfig(
        models=two_cells.grid.models,
        methods=("magnitude",),
        regimes=("oneshot",),
        sparsities=(0.5,),
        mask_structures=("2:4",),
    )
    config = dataclasses.replace(two_cells, grid=grid)
    walk(config)
    out = config.output.out_dir
    before, stages = rows_of(out), set(Store(out).stages.ids())
    assert all("decode_seconds" not in row for row in before.values())
    assert all(row["sparse_bytes"] <= row["dense_bytes"] for row in before.values())
    walk(dataclasses.replace(config, eval=dataclasses.replace(config.eval, speed=True)))
    store = Store(out)
    added = [store.stages.at(each).manifest() for each in set(store.stages.ids()) - stages]
    assert [each["kind"] for each in added] == ["speed"] * 3, "dense, 0.5 and 2:4"
    assert {each["fields"]["device"] for each in added} == {"cpu"}
    after = store.rows.read()
    for key, row in before.items():
        assert {name: after[key][name] for name in row} == row
        assert after[key]["decode_seconds"] > 0 and after[key]["prefill_spread"] >= 0
        assert "cores of" in after[key]["speed_device"]
        assert "sparse_decode_seconds" not in after[key], "a CPU has no sparse kernels"
    columns = to_table(
        [{n: v for n, v in r.items() if n[0] != "_"} for r in after.values()]
    ).column_names
    assert {"dense_bytes", "sparse_bytes", "decode_spread", "speed_device"} <= {*columns}


def test_trained_weights_are_timed_in_the_dtype_of_the_others():
    from orchestrator.trial.speed import in_dtype

    model = torch.nn.Linear(2, 2)
    half = in_dtype(model, torch.bfloat16)
    assert next(half.parameters()).dtype == torch.bfloat16
    assert (
        next(model.parameters()).dtype == torch.float32 and in_dtype(model, torch.float32) is model
    )


def test_a_streamed_model_is_not_timed_and_the_row_says_why():
    from core.ranks import Ranks
    from orchestrator.results.bought import speed_columns
    from orchestrator.trial.speed import run_speed

    stored = {}
    space = SimpleNamespace(
        ranks=Ranks.current(),
        weights=SimpleNamespace(streams=True),
        publish_metrics=lambda stage, metrics: stored.update(metrics),
    )
    run_speed(space, SimpleNamespace(work=Speed("float32"), parent="p"))
    manifest = {"kind": "speed", "metrics": stored, "environment": {"machine": "a GPU"}}
    columns = speed_columns(manifest)
    assert columns == {"speed_device": "a GPU", "speed_note": "the model is larger than memory"}


def test_what_sparse_kernels_refuse_is_recorded(monkeypatch):
    from orchestrator.trial import speed

    def refuse(model):
        raise RuntimeError("no such kernel\nmore")

    monkeypatch.setattr(speed, "with_sparse_kernels", refuse)
    monkeypatch.setattr(speed, "speed_of", lambda *_: {"decode": 1})
    target = SimpleNamespace(mask_structure="2:4")
    space = SimpleNamespace(
        weights=SimpleNamespace(load=lambda *_, **__: (torch.nn.Linear(2, 2), {})),
        ranks=SimpleNamespace(device=torch.device("cuda")),
        job=SimpleNamespace(target_of=lambda _: target),
    )
    stage = SimpleNamespace(parent="p")
    found = speed.both_kernels(space, stage, Speed("float32"))
    assert found == {"dense_kernels": {"decode": 1}, "no_sparse_kernels": "no such kernel"}
    target.mask_structure = None
    assert "no_sparse_kernels" not in speed.both_kernels(space, stage, Speed("float32"))
