"""In a real browser: what the page says of the best method, and what it shows of stages."""

import re
import runpy
from pathlib import Path

import pytest

from orchestrator.page.document import write_html
from orchestrator.results.details import details_of

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
    write_html(rows, path, details=details_of(rows, manifests.get))
    return path


def verdict(browser) -> str:
    text = browser.run("return document.getElementById('verdict').innerText")
    return text.replace("\u00a0", " ")


def test_the_page_says_which_method_to_use_at_70_percent_and_how_sure_that_is(browser, small):
    browser.open(small)
    assert browser.run("return document.getElementById('target').value") == "0.7"
    text = verdict(browser)
    assert "Lowest perplexity: sparsegpt · iterative with 40.05 ± 0.07 (2 seeds)" in text
    assert "after 2,048 training tokens: 45 % above the dense model's 27.66." in text
    assert "How sure? Clear: its lead over" in text and "ahead on 2 of 2 seeds" in text
    assert "Two seeds tell the spread only roughly" in text
    assert "Best without training: sparsegpt · oneshot with 60.05" in text
    assert "from 27.66 to 29.00, so what training wins back is not adaptation to the text" in text
    assert "Left out, having no perplexity: alps · oneshot (failed)" in text


def at_half(tmp_path, browser, *cells) -> str:
    rows = [
        make_row(method=method, seed=seed, perplexity=value)
        for method, values in cells
        for seed, value in enumerate(values)
    ]
    write_html(rows, tmp_path / "page.html")
    browser.open(tmp_path / "page.html")
    return verdict(browser)


def test_a_lead_within_the_noise_of_seeds_is_not_called_one(browser, tmp_path):
    text = at_half(
        tmp_path, browser, ("sparsegpt", (39.0, 41.0, 40.0)), ("wanda", (40.5, 40.8, 41.7))
    )
    assert "Not sure: its lead over wanda · oneshot is 1.00 (2.5 %)" in text
    assert "0.8 times the joint standard deviation" in text and "ahead on 2 of 3 seeds" in text


def test_a_single_seed_is_said_to_prove_nothing_and_papers_give_the_scale(browser, tmp_path):
    text = at_half(tmp_path, browser, ("sparsegpt", (40.0,)), ("wanda", (41.0,)))
    assert "Not known: its lead over wanda · oneshot is 1.00 (2.5 %), with a single seed" in text
    assert "--seeds 0 1 2" in text and re.search(
        r"opt-\S+ at \S+ varies by \d\.\d % over seeds", text
    )


def test_what_no_seed_changes_is_compared_as_exact(browser, tmp_path):
    rows = [make_row(method="magnitude", seed=None, perplexity=50.0)]
    rows += [make_row(seed=seed, perplexity=40.0 + seed / 10) for seed in range(3)]
    write_html(rows, tmp_path / "page.html")
    browser.open(tmp_path / "page.html")
    assert "Clear: its lead over magnitude · oneshot is 9.90" in verdict(browser)


def test_regimes_that_meet_at_one_stage_are_one_entry(browser, tmp_path):
    known = {"stage_id": "same", "perplexity": 30.0, "num_finetune_tokens": TOKENS}
    rows = [
        make_row(**known, regime="finetune"),
        iterative(0.5, **known),
        make_row(perplexity=41.0),
    ]
    write_html(rows, tmp_path / "page.html")
    browser.open(tmp_path / "page.html")
    text = verdict(browser)
    assert "wanda · finetune = iterative with 30.00" in text and "lead over wanda · oneshot" in text


def test_the_only_cell_of_a_target_is_compared_with_nothing(browser, tmp_path):
    assert "nothing to compare it with" in at_half(tmp_path, browser, ("wanda", (40.0,)))


def shown(browser, view: str) -> list[dict]:
    browser.choose("view", view)
    return browser.run(
        "return document.getElementById('plot').data.map(t => ({...t.meta, name: t.name, x: t.x,"
        " y: t.y, axis: t.xaxis ?? 'x', hover: t.hovertext}))"
    )


def test_errors_of_layers_stand_in_a_panel_for_each_kind_of_matrix(browser, small):
    browser.open(small)
    lines = shown(browser, "errors")
    assert {line["method"] for line in lines} == {"sparsegpt", "wanda"}, "magnitude knows none"
    assert {line["panel"] for line in lines} == {kind.split(".")[1] for kind in KINDS}
    assert len({line["axis"] for line in lines}) == 4
    first = next(line for line in lines if line["method"] == "sparsegpt")
    # One-shot and fine-tuned cells share their prune stage: one line for both.
    assert first["labels"] == ["oneshot", "finetune"] and first["x"] == list(range(6))
    assert first["y"] == pytest.approx([0.1 * (1 + 0.1 * 4 * i) for i in range(6)])
    assert "model.layers.0.self_attn.q_proj" in first["hover"][0]
    assert all(
        "norms of inputs only" in line["name"] for line in lines if line["method"] == "wanda"
    )
    assert browser.run("return document.getElementById('plot')._fullLayout.yaxis.type") == "log"
    assert browser.errors() == []


def test_sparsities_of_layers_are_those_measured(browser, small):
    browser.open(small)
    lines = shown(browser, "zeros")
    assert {line["method"] for line in lines} == {"sparsegpt", "wanda", "magnitude"}
    for line in lines:
        assert line["y"] == [0.6 if line["panel"] == "q_proj" else 0.7] * 6
    assert browser.errors() == []


def test_losses_of_all_rounds_follow_each_other_with_a_gap(browser, small):
    browser.open(small)
    lines = shown(browser, "losses")
    assert {line["kind"] for line in lines} == {"loss"}
    rounds = [line for line in lines if (line["method"], line["label"]) == ("wanda", "iterative")]
    assert len(rounds) == 2, "one line for each seed"
    assert rounds[0]["x"][7:10] == [TOKENS, TOKENS, TOKENS + TOKENS // 8]
    assert rounds[0]["y"][7:10] == pytest.approx([2.3, None, 3.2])
    assert not any(line["label"] == "oneshot" for line in lines)
    assert browser.errors() == []


def test_choosers_act_on_the_views_of_stages_too(browser, small):
    browser.open(small)
    browser.run("document.querySelector('[data-name=\"method:wanda\"]').click()")
    assert {line["method"] for line in shown(browser, "errors")} == {"sparsegpt"}
    browser.run("document.querySelector('[data-scale=linear]').click()")
    scale = "return document.getElementById('plot')._fullLayout.yaxis.type"
    assert browser.run(scale) == "linear"
    shown(browser, "sparsity")
    assert browser.run("return page.state.scales.perplexity") == "linear", "has its own scale"


@pytest.mark.parametrize(
    ("view", "said"),
    [
        ("errors", "No errors recorded here"),
        ("zeros", "No sparsities of matrices recorded here"),
        ("losses", "Nothing was trained here"),
    ],
)
def test_pages_without_recorded_stages_say_so(browser, tmp_path, view, said):
    write_html([make_row()], tmp_path / "old.html")
    browser.open(tmp_path / "old.html")
    assert all(line["kind"] == "ring" for line in shown(browser, view))
    text = browser.run("return document.getElementById('plot').textContent")
    assert said in text and browser.errors() == []
