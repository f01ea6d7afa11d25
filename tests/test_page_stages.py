"""In a real browser: what the page shows of layers and of training."""

import math
import runpy
from pathlib import Path

import pytest

from orchestrator.page.document import write_html

_synthetic = runpy.run_path(str(Path(__file__).with_name("synthetic_rows.py")))
make_row, control, iterative = (_synthetic[n] for n in ("make_row", "control", "iterative"))
KINDS = ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")
NAMES = [f"model.layers.{i}.{kind}" for i in range(6) for kind in KINDS]
TOKENS = 1024


def prune_stage(parent: str, level: float | None, statistic: str | None) -> dict:
    errors = [level and level * (1 + 0.1 * i) for i in range(len(NAMES))]
    sparsity = [0.6 if "q_proj" in name else 0.7 for name in NAMES]
    matrices = {"names": NAMES, "errors": errors, "sparsity": sparsity, "statistic": statistic}
    return {"kind": "prune", "parent": parent, "metrics": {"matrices": matrices}}


def train_stage(parent: str, start: float) -> dict:
    losses = [start - 0.1 * i for i in range(8)]
    return {
        "kind": "finetune",
        "parent": parent,
        "metrics": {
            "num_tokens": TOKENS,
            "losses": losses,
            "num_steps": len(losses),
            "steps_resumed": 0,
        },
    }


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """Three methods at 0.7, two seeds, trained once and in two rounds, with all their stages."""
    manifests, rows = {}, []
    methods = {
        "sparsegpt": (0.1, "Hessian"),
        "wanda": (0.2, "InputNorms"),
        "magnitude": (None, None),
    }
    for method, (level, statistic) in methods.items():
        for seed in (0, 1):
            name = f"{method}{seed}"
            manifests |= {
                f"{name}p": prune_stage("root", level, statistic),
                f"{name}t": train_stage(f"{name}p", 3.0),
                f"{name}q": prune_stage(f"{name}t", level and level / 4, statistic),
                f"{name}u": train_stage(f"{name}q", 3.2),
            }
            base = {"method": method, "seed": seed}
            worse = 5 * (method != "sparsegpt") + seed / 10
            rows += [
                make_row(**base, sparsity=0.7, perplexity=60 + worse, stage_id=f"{name}p"),
                make_row(
                    **base,
                    regime="finetune",
                    sparsity=0.7,
                    num_finetune_tokens=TOKENS,
                    perplexity=45 + worse,
                    stage_id=f"{name}t",
                ),
                iterative(
                    0.5,
                    0.7,
                    **base,
                    num_finetune_tokens=2 * TOKENS,
                    perplexity=40 + worse,
                    stage_id=f"{name}u",
                ),
            ]
    rows.append(make_row(method="alps", sparsity=0.7, status="failed", error="boom"))
    rows.append(make_row(method="dense", regime="dense", sparsity=0.0, seed=None, perplexity=27.66))
    rows += [control(turn, 27.0 + turn, num_finetune_tokens=turn * TOKENS) for turn in (1, 2)]
    path = tmp_path_factory.mktemp("small") / "curves.html"
    write_html(rows, path, manifest=manifests.get)
    return path


def shown(browser, path: Path, fragment: str) -> list[dict]:
    browser.call("/url", {"url": "about:blank"})
    browser.open(path, fragment=fragment)
    return browser.run(
        "return byId('plot').data.map(t => ({...t.meta, x: t.x, y: t.y, name: t.name,"
        " color: t.marker?.color, hover: t.hovertext}))"
    )


def line(browser, method: str, regime: str) -> str:
    find = "l => l.at.method === arguments[0] && l.at.regime === arguments[1]"
    return browser.run(f"return page.data.lines.find({find}).id", method, regime)


def test_layers_are_a_heat_map_of_blocks_and_matrices(browser, small):
    (heat,) = shown(browser, small, "view=layers")
    assert len(heat["x"]) == len(NAMES) and set(heat["x"]) == set(range(6))
    assert set(heat["y"]) == {kind.split(".")[1] for kind in KINDS}
    # The lowest line at 0.7 is sparsegpt's iterative one, whose last errors are a quarter.
    assert heat["color"][0] == pytest.approx(math.log10(0.025))
    assert "model.layers.0.self_attn.q_proj: 0.025" in heat["hover"][0]
    assert browser.errors() == []


def test_the_ten_worst_matrices_are_named_and_all_are_in_the_download(browser, small):
    shown(browser, small, "view=layers")
    lines = browser.run(
        "byId('numbers').open = true; drawNumbers();"
        "return [...byId('numbers-table').rows].map(r => [...r.cells].map(c => c.textContent))"
    )
    assert len(lines) == 12 and lines[1][:2] == ["1", "5"]
    assert lines[-1] == ["and 14 more, all in the CSV"]
    text = browser.run(
        "URL.createObjectURL = (blob) => { window.saved = blob.text(); return '#'; };"
        "saveNumbers(); return window.saved"
    )
    assert len(text.splitlines()) == 1 + len(NAMES)


def test_picked_lines_show_their_layers_and_two_show_one_against_the_other(browser, small):
    shown(browser, small, "view=layers")
    wanda, other = line(browser, "wanda", "oneshot"), line(browser, "sparsegpt", "oneshot")
    (heat,) = shown(browser, small, f"view=layers&pick={wanda}")
    assert heat["color"][0] == pytest.approx(math.log10(0.2))
    assert "norms of inputs only" in browser.run("return byId('caption').textContent")
    (heat,) = shown(browser, small, f"view=layers&pick={wanda},{other}")
    assert heat["color"] == pytest.approx([math.log10(0.5)] * len(NAMES))


def test_sparsities_of_layers_are_those_measured(browser, small):
    (heat,) = shown(browser, small, "view=layers&field=sparsity")
    expected = [0.6 if "q_proj" in name else 0.7 for name in NAMES]
    assert heat["color"] == pytest.approx(expected)


def test_losses_of_all_rounds_follow_each_other_with_a_gap(browser, small):
    lines = shown(browser, small, "view=losses")
    assert {line["kind"] for line in lines} == {"loss"}
    rounds = [ln for ln in lines if (ln["method"], ln["regime"]) == ("wanda", "iterative")]
    assert len(rounds) == 2, "one line for each seed"
    assert rounds[0]["x"][7:10] == [TOKENS, TOKENS, TOKENS + TOKENS // 8]
    assert rounds[0]["y"][7:10] == pytest.approx([2.3, None, 3.2])
    assert not any(line["regime"] == "oneshot" for line in lines)
    assert browser.errors() == []


def test_chips_act_on_the_views_of_stages_too(browser, small):
    lines = shown(browser, small, "view=losses&hide=method%253Dwanda")
    assert {line["method"] for line in lines} == {"sparsegpt", "magnitude"}


def test_names_are_raw_in_numbers_and_downloads(browser, tmp_path):
    row = make_row(method="a<b>&%{x}", regime="finetune", num_finetune_tokens=TOKENS, stage_id="t")
    other = make_row(method="wanda", regime="finetune", num_finetune_tokens=TOKENS, stage_id="t")
    stages = {"t": train_stage("root", 3.0)}
    write_html([row, other], tmp_path / "page.html", manifest=stages.get)
    shown(browser, tmp_path / "page.html", "view=losses")
    text = browser.run(
        "URL.createObjectURL = (blob) => { window.saved = blob.text(); return '#'; };"
        "saveNumbers(); return window.saved"
    )
    assert '"a<b>&%{x}' in text and "&lt;" not in text


def test_a_large_page_says_where_layers_and_losses_are(browser, tmp_path, monkeypatch):
    monkeypatch.setattr("orchestrator.page.packing.MANY_ROWS", 1)
    write_html([make_row()], tmp_path / "large.html", provenance={"out-dir": "my sweep"})
    for view in ("layers", "losses"):
        shown(browser, tmp_path / "large.html", f"view={view}")
        text = browser.run("return document.getElementById('plot').textContent")
        assert "python -m orchestrator.browse 'my sweep'" in text


@pytest.mark.parametrize(
    ("view", "said"),
    [("layers", "No values of layers are recorded here"), ("losses", "Nothing was trained here")],
)
def test_pages_without_recorded_stages_say_so(browser, tmp_path, view, said):
    write_html([make_row()], tmp_path / "old.html")
    assert shown(browser, tmp_path / "old.html", f"view={view}") == []
    text = browser.run("return document.getElementById('plot').textContent")
    assert said in text and browser.errors() == []
