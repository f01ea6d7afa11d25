"""Zero-shot tasks through lm-evaluation-harness, on a task defined here over a tiny data set."""

from __future__ import annotations

import functools
import json
import sys
from types import SimpleNamespace

import pytest
import ray
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from core.config import EvalConfig, FinetuneConfig, PruneConfig
from core.measures import zero_shot
from core.measures.zero_shot import metrics_of, require_tasks, run_task, task_identity, task_label
from orchestrator import cli
from orchestrator.cluster import lone_stages, room
from orchestrator.cluster.lone_stages import run_alone
from orchestrator.cluster.reach import Reach
from orchestrator.config import GridConfig, ResourceConfig, SweepConfig
from orchestrator.estimate.machine import Node
from orchestrator.inputs.task_names import resolve_tasks
from orchestrator.plan.inputs import EvaluationText, ModelInputs
from orchestrator.plan.planner import Planner
from orchestrator.results.gathering import task_columns
from orchestrator.results.parquet import read_rows, write_parquet
from orchestrator.results.schema import SCHEMA

DOCUMENTS = [
    {"question": "ka lo mi", "choices": ["ren tus", "or a pel"], "answer": 0},
    {"question": "shi ning", "choices": ["ka", "lo lo lo"], "answer": 1},
    {"question": "pel or", "choices": ["a", "mi ren"], "answer": 1},
    {"question": "tus", "choices": ["ka lo", "shi"], "answer": 0},
    {"question": "ren a", "choices": ["pel", "ning ka"], "answer": 1},
]


def define_task(directory):
    """A multiple-choice task over a local file, as the harness defines tasks."""
    data = directory / "tiny.jsonl"
    data.write_text("\n".join(map(json.dumps, DOCUMENTS)) + "\n", encoding="utf-8")
    definition = {
        "task": "tiny_choice",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }
    path = directory / "tiny_choice.yaml"
    path.write_text(json.dumps(definition), encoding="utf-8")  # JSON is YAML
    return path


@pytest.fixture(scope="module", autouse=True)
def one_index():
    """One index of the harness's own tasks for all tests: it takes seconds to make."""
    from lm_eval import tasks

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "TaskManager", functools.cache(tasks.TaskManager))
        yield


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return define_task(tmp_path_factory.mktemp("task"))


def log_likelihood(model, tokenizer, context: str, continuation: str) -> float:
    """Sum over the continuation's tokens, which follow a space."""
    whole = tokenizer(f"{context} {continuation}", return_tensors="pt")["input_ids"]
    begin = len(tokenizer(context)["input_ids"])
    with torch.no_grad():
        scores = model(whole).logits[0].log_softmax(-1)
    return sum(scores[i - 1, whole[0, i]].item() for i in range(begin, whole.shape[1]))


@pytest.mark.parametrize("limit", [None, 2])
def test_accuracy_is_that_of_the_likelier_choice(task, tiny_opt_dir, limit):
    model = AutoModelForCausalLM.from_pretrained(tiny_opt_dir, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tiny_opt_dir)
    hits = []
    for document in DOCUMENTS[:limit]:
        values = [
            log_likelihood(model, tokenizer, document["question"], choice)
            for choice in document["choices"]
        ]
        hits.append(values.index(max(values)) == document["answer"])
    found = run_task(model, tokenizer, str(task), limit, batch_size=2, max_length=128)
    assert found["acc"] == pytest.approx(sum(hits) / len(hits))
    assert set(found) <= {"acc", "acc_stderr"} and not torch.distributed.is_initialized()


def test_a_task_whose_data_is_not_there_is_one_line(task, tiny_opt_dir, tmp_path):
    broken = tmp_path / "broken.yaml"
    broken.write_text(task.read_text().replace("tiny.jsonl", "absent.jsonl"))
    model = AutoModelForCausalLM.from_pretrained(tiny_opt_dir)
    tokenizer = AutoTokenizer.from_pretrained(tiny_opt_dir)
    with pytest.raises(RuntimeError, match="absent.jsonl") as caught:
        run_task(model, tokenizer, str(broken), None, batch_size=2, max_length=128)
    assert "\n" not in str(caught.value)


def test_metrics_keep_filters_and_subtasks():
    one = {"a": {"alias": "a", "acc,none": 0.5, "acc_stderr,none": 0.1, "sample_len": 9}}
    assert metrics_of(one, "a") == {"acc": 0.5, "acc_stderr": 0.1}
    group = {"g": {"acc,none": 0.5}, "g_one": {"acc,strict": 1, "acc_stderr,none": "N/A"}}
    assert metrics_of(group, "g") == {"acc": 0.5, "g_one:acc,strict": 1.0}


def test_a_definition_is_known_by_its_content(task, tmp_path):
    copy = tmp_path / "copy.yaml"
    copy.write_bytes(task.read_bytes())
    assert task_identity(str(copy)) == task_identity(str(task)) != task_identity("hellaswag")
    assert (task_label(str(task)), task_label("hellaswag")) == ("tiny_choice", "hellaswag")


@pytest.mark.parametrize(
    ("name", "message"),
    [("helaswag", "did you mean 'hellaswag'?"), ("nowhere.yaml", "no such file")],
)
def test_tasks_that_do_not_exist_are_refused_in_one_line(name, message):
    with pytest.raises(ValueError, match="--eval.tasks") as caught:
        require_tasks((name,))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_without_the_harness_one_line_says_what_to_install(monkeypatch, capsys, tmp_path):
    absent = {"lm_eval"}
    monkeypatch.setattr(zero_shot, "find_spec", lambda name: None if name in absent else name)
    out = tmp_path / "out"
    command = ["sweep_opt.py", "--eval.tasks", "hellaswag", "--out-dir", str(out)]
    monkeypatch.setattr(sys, "argv", command)
    assert cli.main(SweepConfig(), "") == 2
    error = capsys.readouterr().err
    assert error == (
        "error: --eval.tasks hellaswag: needs lm_eval; pip install 'prune-sweep[tasks]'\n"
    )
    assert not out.exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task_limit": 3}, "--eval.task-limit 3: needs --eval.tasks"),
        ({"tasks": ("a",), "task_limit": 0}, "use 1 or more"),
        ({"tasks": ("a", "a")}, "given twice"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        EvalConfig(**settings)


def test_each_task_is_a_stage_once_for_each_weights_and_limit(task):
    def stages(limit):
        grid = GridConfig(methods=("magnitude",), regimes=("oneshot",), sparsities=(0.5,))
        text = EvaluationText("e", "e", 16, 16)
        inputs = ModelInputs("embedded", "m", "float32", "float32", None, None, 0, 0, (text,))
        tasks = resolve_tasks(EvalConfig(tasks=(str(task), "hellaswag")))
        planner = Planner(grid, PruneConfig(), FinetuneConfig(), tasks, limit)
        return planner.build([inputs]).task_stages()

    found = stages(None)
    assert [(stage.method, stage.text) for stage in found] == [
        ("dense", "tiny_choice"),
        ("dense", "hellaswag"),
        ("magnitude", "tiny_choice"),
        ("magnitude", "hellaswag"),
    ]
    assert not {stage.id for stage in found} & {stage.id for stage in stages(5)}


def test_tasks_that_no_node_can_ever_run_fail(monkeypatch, caplog):
    """Ray lost its workers: at first a node has enough cores, after two waits none."""
    reaches = iter([4.0, 4.0, *[1.0] * 9])
    stage = SimpleNamespace(text="t", method="wanda")
    jobs = [SimpleNamespace(id=name, stages=(stage,)) for name in ("a", "b")]
    monkeypatch.setattr("orchestrator.cluster.lone_stages.sent", lambda job: job.id)
    started = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda job: job))
    waits = []
    monkeypatch.setattr(ray, "remote", lambda work: started)
    monkeypatch.setattr(lone_stages, "with_threads", lambda job, threads: job)
    monkeypatch.setattr(
        lone_stages, "reach_of_cluster", lambda: Reach((), head=Node(next(reaches)))
    )
    monkeypatch.setattr(room, "RETURN_SECONDS", 0.0)
    monkeypatch.setattr(ray, "wait", lambda refs, timeout: (waits.append(timeout), ([], refs))[1])
    assert run_alone(jobs, ResourceConfig(cpus_per_worker=2)) == 2
    assert waits == [room.CHECK_SECONDS] * 3
    assert "2 tasks failed: no node has 2 CPU cores; the most are 1; add nodes" in caplog.text


def test_results_become_columns(tmp_path):
    manifests = {
        "t1": {"kind": "tasks", "parent": "s", "label": "tiny", "fields": {"limit": None}},
        "t2": {"kind": "tasks", "parent": "s", "label": "tiny", "fields": {"limit": 5}},
    }
    for value, manifest in enumerate(manifests.values()):
        manifest["results"] = {"acc": float(value)}
    manifests["t2"]["environment"] = {"lm_eval_version": "0.4.13"}
    columns = task_columns({"s": {"kind": "prune"}, **manifests})
    used = {"lm_eval_version": "0.4.13"}
    assert columns == {"s": {"task:tiny:acc": 0.0, "task:tiny[:5]:acc": 1.0, **used}}
    row = {
        **dict.fromkeys(("cell_id", "model", "method", "regime", "protocol", "eval_text"), "x"),
        **{"sparsity": 0.5, "status": "done", "in_current_grid": True},
    }
    write_parquet([row | columns["s"], row], tmp_path / "results.parquet")
    with_tasks, without = read_rows(tmp_path / "results.parquet")
    assert list(with_tasks) == [*SCHEMA.names, *used, "task:tiny:acc", "task:tiny[:5]:acc"]
    assert {with_tasks["task:tiny[:5]:acc"], without["task:tiny[:5]:acc"]} == {1.0, None}
