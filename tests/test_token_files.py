"""Damaged token files are made again, by the command and by workers; no number follows from one."""

import pickle
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from core.ranks import Ranks
from orchestrator.cli import parse
from orchestrator.cluster.diagnosis import describe
from orchestrator.config import SweepConfig
from orchestrator.failure import DamagedTokensError
from orchestrator.inputs.token_files import read_tokens, write_tokens
from orchestrator.inputs.token_reader import TokenReader
from orchestrator.inputs.tokens import save_tokens
from orchestrator.out_dir import mark
from orchestrator.preparation import prepare, read_texts
from orchestrator.store.store import Store
from orchestrator.trial.walk import Walk

walked = runpy.run_path(str(Path(__file__).with_name("walked.py")))


def flipped(data: bytes, at: int) -> bytes:
    """One changed bit."""
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


DAMAGES = {
    "empty": lambda data: b"",
    "truncated": lambda data: data[:-5],
    "cut in its header": lambda data: data[:40],
    "longer": lambda data: data + b"\0" * 4,
    "last token flipped": lambda data: flipped(data, len(data) - 3),
    "first byte flipped": lambda data: flipped(data, 0),
    "header flipped": lambda data: flipped(data, 60),
    "shape changed": lambda data: data.replace(b'"shape":[2,3]', b'"shape":[3,2]'),
    "no JSON object": lambda data: (2).to_bytes(8, "little") + b"[]",
    "another file": lambda data: save({"other": torch.zeros(3)}),
    "an earlier version": lambda data: save({"tokens": torch.ones(2, 3, dtype=torch.int32)}),
}


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


@pytest.mark.parametrize("damage", DAMAGES)
def test_no_damage_is_read(store, damage):
    tokens = torch.arange(6).reshape(2, 3)
    write_tokens(store, "name", tokens)
    assert torch.equal(read_tokens(store, "name"), tokens)
    data = store.files.read_bytes("tokens", "name.safetensors")
    changed = DAMAGES[damage](data)
    assert changed != data
    store.files.write_bytes(changed, "tokens", "name.safetensors")
    with pytest.raises(DamagedTokensError, match="^tokens/name is "):
        read_tokens(store, "name")


def test_flipped_bits_anywhere_are_found(store):
    write_tokens(store, "name", torch.tensor([5, 6]))
    data = store.files.read_bytes("tokens", "name.safetensors")
    for at in range(0, len(data), 3):
        store.files.write_bytes(flipped(data, at), "tokens", "name.safetensors")
        try:
            assert read_tokens(store, "name").tolist() == [5, 6], at  # A space may be another one.
        except DamagedTokensError:
            pass


def test_a_file_under_another_name_is_no_file_of_that_name(store):
    write_tokens(store, "one", torch.tensor([1]))
    data = store.files.read_bytes("tokens", "one.safetensors")
    store.files.write_bytes(data, "tokens", "two.safetensors")
    with pytest.raises(DamagedTokensError, match="changed"):
        read_tokens(store, "two")
    write_tokens(store, "none", torch.zeros(0, 2))
    assert read_tokens(store, "none").shape == (0, 2)


# Sweeps -------------------------------------------------------------------------------------------


@pytest.fixture
def sweep(tiny_opt_dir, write_texts, tmp_path, monkeypatch, one_thread):
    """A small sweep, planned, whose token files are written."""
    write_texts(tmp_path)
    monkeypatch.chdir(tmp_path)
    flags = ["--models", str(tiny_opt_dir), "--methods", "wanda", "--regimes", "oneshot"]
    flags += ["--sparsities", "0.5", "--eval.texts", "test.txt", "--eval.seq-len", "32"]
    flags += ["--calibration.text", "calibration.txt", "--calibration.num-samples", "2"]
    flags += ["--calibration.seq-len", "32", "--eval.max-windows", "2", "--out-dir", "out"]
    planned = prepare(parse(SweepConfig(), flags, ""))
    mark(planned.store)
    save_tokens(planned.store, read_texts(planned).tokens)
    return planned


def token_files(sweep) -> dict[str, bytes]:
    files = sweep.store.files
    return {name: files.read_bytes("tokens", name) for name in sorted(files.names("tokens"))}


@pytest.mark.parametrize("damage", ["truncated", "last token flipped", "an earlier version"])
def test_the_command_makes_damaged_files_again_and_says_so(sweep, damage, caplog):
    whole = token_files(sweep)
    assert len(whole) == 3 and not read_texts(sweep).tokens and not caplog.text
    for name, data in whole.items():
        sweep.store.files.write_bytes(DAMAGES[damage](data), "tokens", name)
    save_tokens(sweep.store, read_texts(sweep).tokens)
    assert token_files(sweep) == whole
    for name in whole:
        assert caplog.text.count(f"tokens/{name.removesuffix('.safetensors')} is ") == 1
    assert caplog.text.count("; made again") == 3


@pytest.mark.parametrize("damage", ["truncated", "last token flipped"])
def test_a_worker_makes_damaged_files_again_and_says_so(sweep, damage, caplog):
    (job,) = walked["jobs_of"](sweep)
    whole = token_files(sweep)
    for name, data in whole.items():
        sweep.store.files.write_bytes(DAMAGES[damage](data), "tokens", name)
    Walk(job, sweep.store, Ranks.current(), lambda metrics: None).run()
    assert token_files(sweep) == whole
    assert caplog.text.count("; made again") == 3
    calm = walked["walk"](
        replace(sweep.config, output=replace(sweep.config.output, out_dir="calm"))
    )
    assert walked["rows_of"]("out") == walked["rows_of"]("calm") and len(calm.cells) == 2


@pytest.mark.parametrize("away", ["absent", "another text"])
def test_a_worker_without_the_text_ends_in_a_line_that_a_later_run_mends(sweep, tmp_path, away):
    (job,) = walked["jobs_of"](sweep)
    for name in token_files(sweep):
        sweep.store.files.write_bytes(b"", "tokens", name)
    kept = (tmp_path / "test.txt").read_bytes()
    for name in ("test.txt", "calibration.txt"):
        if away == "absent":
            (tmp_path / name).unlink()
        else:
            (tmp_path / name).write_bytes(kept[:-9])
    with pytest.raises(DamagedTokensError) as caught:
        Walk(job, sweep.store, Ranks.current(), lambda metrics: None).run()
    error = RuntimeError("as Ray gives it")
    error.__dict__["worker_failures"] = {0: pickle.loads(pickle.dumps(caught.value))}
    failure = describe(job, error)
    assert failure.interrupted and failure.line == str(caught.value)
    assert "its text is not on this machine; run the same command again" in failure.line


def test_counts_that_were_never_made_stay_absent(sweep):
    (stage,) = [s for s in sweep.plan.stages.values() if s.text == "test.txt"][:1]
    (reading,) = stage.work.readings()
    model = sweep.models[0]
    reader = TokenReader(sweep.store, model.source, model.texts)
    assert reader.counts(reading) is not None
    for name in sweep.store.files.names("tokens"):
        if ".counts" in name:
            sweep.store.files.delete("tokens", name)
    assert reader.counts(reading) is None
