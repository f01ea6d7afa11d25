"""A sweep walked without Ray and collected: what its page and table tell of it."""

import json
from collections import Counter

import pytest

from core.config import CalibrationConfig, EvalConfig, FinetuneConfig
from core.ranks import Ranks
from orchestrator import out_dir, preparation
from orchestrator.config import GridConfig, OutputConfig, ResourceConfig, SweepConfig
from orchestrator.inputs.tokens import save_tokens
from orchestrator.jobs import trial_job
from orchestrator.report import collect
from orchestrator.results.collection import refresh_results
from orchestrator.results.parquet import read_rows
from orchestrator.results.record import newest_record
from orchestrator.store.published import Published
from orchestrator.store.stages import Stages
from orchestrator.trial.walk import Walk

TOKENS, STEPS = 256, 4


@pytest.fixture(scope="module")
def collected(tiny_opt_dir, write_texts, tmp_path_factory, one_thread):
    """The rows, what the page holds of magnitude and SparseGPT in two rounds, and the store."""
    place = tmp_path_factory.mktemp("collect")
    write_texts(place)
    config = SweepConfig(
        grid=GridConfig(
            models=(str(tiny_opt_dir),), methods=("magnitude", "sparsegpt"), sparsities=(0.5, 0.7)
        ),
        calibration=CalibrationConfig(
            text=str(place / "calibration.txt"), num_samples=8, seq_len=32
        ),
        finetune=FinetuneConfig(
            text=str(place / "train.txt"), tokens=TOKENS, seq_len=32, batch_tokens=TOKENS // STEPS
        ),
        eval=EvalConfig(texts=(str(place / "test.txt"),), seq_len=32, max_windows=2),
        resources=ResourceConfig(cpus_per_worker=1),
        output=OutputConfig(out_dir=str(place / "out")),
    )
    sweep = preparation.prepare(config)
    out_dir.mark(sweep.store)
    preparation.write_record(sweep)
    texts = preparation.read_texts(sweep)
    save_tokens(sweep.store, texts.tokens)
    texts.training.write()
    for trial in preparation.trials_of(sweep, texts.seconds, 1):
        job = trial_job(sweep, trial, set())
        Walk(job, sweep.store, Ranks.current(), lambda told: None).run()
    reads, read = Counter(), Published.manifest
    with pytest.MonkeyPatch.context() as counted:
        counted.setattr(Published, "manifest", lambda s: reads.update([s.name]) or read(s))
        assert collect(sweep) == 0
    (island,) = (place / "out" / "curves.html").read_text(encoding="utf-8").split('id="data">')[1:]
    rows = read_rows(str(place / "out" / "results.parquet"))
    found = {(r["method"], r["regime"], r["sparsity"], r["round"]): r for r in rows}
    return found, json.loads(island.split("</script>")[0]), sweep.store, reads


def test_collecting_reads_each_manifest_once(collected):
    assert collected[3] and set(collected[3].values()) == {1}


def test_every_row_names_the_evaluation_of_the_dense_model(collected):
    stored = list(collected[2].rows.read().values())
    (dense,) = [row for row in stored if row["regime"] == "dense"]
    assert {row["_dense_evaluation"] for row in stored} == {dense["_evaluation"]}
    assert {row["dense_perplexity"] for row in collected[0].values()} == {dense["perplexity"]}


@pytest.mark.parametrize(("method", "measured"), [("magnitude", False), ("sparsegpt", True)])
def test_the_page_has_the_sparsity_and_the_error_of_every_matrix(collected, method, measured):
    rows, page, *_ = collected
    details = page["details"]
    pruned, _ = details["stages"][rows[method, "iterative", 0.7, 2]["stage_id"]]
    layer = details["layers"][pruned]
    names = details["names"][layer["names"]]
    assert len(names) == 2 * 6 and names[0].endswith("layers.0.self_attn.k_proj")
    sparsity = layer["sparsity"]
    each = sparsity if isinstance(sparsity, list) else [sparsity] * len(names)
    assert each == pytest.approx([0.7] * len(names), abs=2e-3)
    errors = layer["errors"]
    assert (errors is not None) == measured
    assert not measured or len(errors) == 12 and all(0 < error < 1 for error in errors)


def test_the_page_has_the_losses_of_every_round(collected):
    rows, page, *_ = collected
    details = page["details"]
    for method in ("magnitude", "sparsegpt"):
        last = rows[method, "iterative", 0.7, 2]
        pruned, trained = details["stages"][last["stage_id"]]
        rounds = [details["losses"][stage] for stage in trained]
        assert [one["tokens"] for one in rounds] == [TOKENS, TOKENS]
        assert [len(one["values"]) for one in rounds] == [STEPS, STEPS]
        first = details["stages"][rows[method, "finetune", 0.5, 1]["stage_id"]]
        assert first[1] == trained[:1] and first[0] != pruned
    control = details["stages"][rows["dense", "finetune", 0.0, 2]["stage_id"]]
    assert control[0] is None and len(control[1]) == 2


def test_rows_and_page_say_how_to_compute_them_again(collected):
    rows, page, *_ = collected
    assert all("cores of" in row["machine"] for row in rows.values())
    settings = dict(page["settings"])
    assert settings["command to reproduce"][0].startswith("python ")
    assert settings["machine"] == sorted({row["machine"] for row in rows.values()})
    assert settings["computed"][0].endswith(" UTC")


def test_a_table_is_made_again_without_manifests_unless_a_sweep_asked_for_tasks(collected):
    store = collected[2]
    record = newest_record(store)

    def manifests_read():
        looked = []
        with pytest.MonkeyPatch.context() as counted:
            counted.setattr(Stages, "check", lambda _, s: looked.append(s) or (None, None))
            store.files.delete("results.parquet")
            refresh_results(store)
        assert store.files.exists("results.parquet")
        return set(looked)

    assert manifests_read() == set()
    config = {**record["config"], "eval": {"tasks": ["piqa"]}}
    earlier = json.dumps({**record, "sweep_id": "earlier", "config": config}).encode()
    store.files.write_bytes(earlier, "sweeps", "earlier.json")
    now = json.dumps(record).encode()
    store.files.write_bytes(now, "sweeps", f"{record['sweep_id']}.json")
    assert manifests_read() == store.stages.ids()
