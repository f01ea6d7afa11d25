"""A preset finds offline what it said to fetch, once the hub's own client has fetched it."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

from core.texts.named_texts import NAMED

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = str(ROOT / "experiments" / "reproduce_sparsegpt.py")
_cache = runpy.run_path(str(Path(__file__).with_name("hub_cache.py")))
FakeHub = runpy.run_path(str(Path(__file__).with_name("fake_hub.py")))["FakeHub"]
MODELS = ("facebook/opt-125m", "facebook/opt-350m")
WHOLE_LINE = (
    "error: --models facebook/opt-125m facebook/opt-350m (no such directory), "
    "--calibration.text c4, --eval.texts wikitext2 ptb c4: not in the hub's cache, and the hub "
    "does not give them (CAUSE); fetch with "
    "a network: {commands} (N: on the model's page of the hub, the number of SFconvertbot's pull "
    "request 'Adding `safetensors` variant of this model'; main has pickled weights only); or give "
    "a local directory or a copy of a text's file as NAME=FILE\n"
)
MAIN = "--include '*.json' --include '*.txt' --include '*.model' --include 'model*.safetensors'"
COMMANDS = [
    command
    for model in MODELS
    for command in (
        f"hf download {model} {MAIN}",
        f"hf download {model} --revision refs/pr/N --include 'model*.safetensors*'",
    )
] + [
    "hf download allenai/c4 en/c4-train.00000-of-01024.json.gz "
    "en/c4-validation.00000-of-00008.json.gz --repo-type dataset --revision "
    f"{NAMED['c4'].revision}",
    "hf download Salesforce/wikitext wikitext-2-raw-v1/test-00000-of-00001.parquet "
    f"--repo-type dataset --revision {NAMED['wikitext2'].revision}",
    "hf download ptb-text-only/ptb_text_only penn_treebank/test/0000.parquet "
    "--repo-type dataset --revision refs/convert/parquet",
]


def dry_run(home: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """The preset as a user without a network starts it; PTB's stand-in has other rows."""
    words = [SCRIPT, "--models", *MODELS, "--dry-run", "--out-dir", str(home / "out"), *flags]
    code = f"{_cache['UNPIN_PTB']}\nimport runpy, sys\nsys.argv = {words!r}\n"
    code += f"runpy.run_path({SCRIPT!r}, run_name='__main__')"
    settings = {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    return command([sys.executable, "-c", code], settings)


def command(words: list[str] | str, settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    return subprocess.run(
        words,
        env=kept | settings,
        shell=isinstance(words, str),
        capture_output=True,
        text=True,
        timeout=200,
    )


def test_what_the_line_says_to_fetch_is_all_that_is_needed(
    tmp_path, make_model_dir, hub_text_files
):
    config = runpy.run_path(str(Path(__file__).with_name("conftest.py")))["tiny_opt_config"]()
    made, hub = make_model_dir(config), FakeHub()
    main, converted = tmp_path / "main" / "snapshot" / "1", tmp_path / "pr" / "snapshot" / "1"
    for folder in (main, converted):
        folder.mkdir(parents=True)
    _cache["save_like_opt"](main, made)
    _cache["copy_into"](converted, made, "model.safetensors")
    for index, model in enumerate(MODELS):
        hub.add("model", model, "main", f"{index}" + "a" * 39, main)
        hub.add("model", model, "refs/pr/7", f"{index}" + "b" * 39, converted)
    for name in ("wikitext2", "c4", "ptb"):
        named = NAMED[name]
        commit = "c" * 40 if name == "ptb" else named.revision
        hub.add("dataset", named.repos[0], named.revision, commit, hub_text_files)

    home = tmp_path / "home"
    done = dry_run(home)
    assert (done.returncode, done.stdout) == (2, "")
    said = re.sub(r"\(Cannot reach [^;]*?\)(?=; fetch)", "(CAUSE)", done.stderr)
    assert said == WHOLE_LINE.format(commands=" && ".join(COMMANDS))

    with hub.serve():
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        settings = {"HF_HOME": str(home), "HF_ENDPOINT": hub.url, "PATH": path}
        line = " && ".join(COMMANDS).replace("refs/pr/N", "refs/pr/7")
        fetched = command(line, settings)
        assert fetched.returncode == 0, fetched.stderr
    assert not list(home.rglob("*.bin")) and not list(home.rglob("*.msgpack"))

    done = dry_run(home)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("20 cells, 0 already done")
