"""Made-up rows like those of a real sweep, for tests of results and of the page."""

from __future__ import annotations

import hashlib
import json
import math
import random
from typing import Any

MODELS = {"facebook/opt-125m": 27.66, "facebook/opt-1.3b": 14.62}
METHODS = {"magnitude": 9.0, "wanda": 4.6, "sparsegpt": 3.7, "alps": 3.3}
REGIMES = ("oneshot", "finetune", "iterative")
SPARSITIES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
TOKENS = 1_048_576


def make_row(**known: Any) -> dict[str, Any]:
    """One row with every column; what is not given is plausible."""
    row: dict[str, Any] = {
        "model": "facebook/opt-125m",
        "method": "wanda",
        "method_settings": "{}",
        "mask_structure": None,
        "regime": "oneshot",
        "sparsity": 0.5,
        "measured_sparsity": known.get("sparsity", 0.5),
        "measured_sparsity_worst": known.get("sparsity", 0.5),
        "num_pruned": 42_467_328,
        "num_prunable": 84_934_656,
        "seed": 0,
        "protocol": "sparsegpt",
        "eval_text": "wikitext2",
        "eval_seq_len": 2048,
        "eval_stride": 2048,
        "perplexity": 40.0,
        "nll": None,
        "num_eval_tokens": 286_720,
        "word_perplexity": None,
        "byte_perplexity": None,
        "num_eval_words": None,
        "num_eval_bytes": None,
        "perplexity_before_finetune": None,
        "dense_perplexity": 27.66,
        "num_finetune_tokens": 0,
        "finetune_lr": None,
        "finetune_settings": None,
        "round": 1,
        "num_rounds": 1,
        "schedule": None,
        "budget": None,
        "path": [known.get("sparsity", 0.5)],
        "calibration_text": "c4",
        "calibration_tokens": 262_144,
        "calibration_seq_len": 2048,
        "prune_seconds": 12.5,
        "finetune_seconds": 0.0,
        "evaluate_seconds": 3.25,
        "peak_memory_bytes": 3_000_000_000,
        "num_workers": 1,
        "device": "cpu",
        "machine": "2 cores of a CPU",
        "dtype": "float32",
        "status": "done",
        "error": None,
        "stage_id": None,
        "stage_dir": None,
        "config": "{}",
        "code_version": "0.1.0",
        "torch_version": "2.13.0",
        "transformers_version": "5.17.0",
        "ray_version": "2.60.0",
        "finished_at": "2026-01-05T12:00:00+00:00",
        "dampening_frac_used": None,
        "sweep_id": "sweep-1",
        "in_current_grid": True,
    }
    row |= known
    if row["status"] != "done":
        lost = ("perplexity", "nll", "num_eval_tokens", "measured_sparsity")
        row |= dict.fromkeys(lost)
    elif row["perplexity"] is not None and row["perplexity"] > 0:
        row["nll"] = math.log(row["perplexity"])
    names = ("model", "method", "regime", "sparsity", "mask_structure", "seed", "round", "path")
    row.setdefault("cell_id", json.dumps([row[name] for name in names]))
    row["stage_id"] = row["stage_id"] or hashlib.sha256(row["cell_id"].encode()).hexdigest()[:16]
    return row


DENSE = make_row(method="dense", regime="dense", sparsity=0.0, seed=None, perplexity=27.66)


def seeds(method: str, *values: float | str, **known: Any) -> list[dict[str, Any]]:
    """Rows of one cell, a seed each; a text in place of a perplexity is a status."""
    return [
        make_row(method=method, seed=seed, status=value, error="boom", **known)
        if isinstance(value, str)
        else make_row(method=method, seed=seed, perplexity=value, **known)
        for seed, value in enumerate(values)
    ]


def iterative(*path: float, **known: Any) -> dict[str, Any]:
    """The row of an iterative cell at the end of `path`, with the same tokens in every round."""
    turn = len(path)
    trained = {"round": turn, "num_rounds": turn, "num_finetune_tokens": turn * TOKENS}
    known = {"schedule": "grid", "budget": "round"} | trained | known
    return make_row(regime="iterative", sparsity=path[-1], path=list(path), **known)


def control(turn: int, perplexity: float, **known: Any) -> dict[str, Any]:
    """The row of the dense model after `turn` rounds of the same training."""
    trained = {"round": turn, "num_finetune_tokens": turn * TOKENS, "budget": "round"}
    base = {"method": "dense", "regime": "finetune", "sparsity": 0.0, "path": []}
    return make_row(**(base | trained | known), perplexity=perplexity)


def sweep_rows(
    models: dict[str, float] = MODELS,
    sparsities: tuple[float, ...] = SPARSITIES,
    seeds: tuple[int, ...] = (0, 1, 2),
) -> list[dict[str, Any]]:
    """Two models x four methods x three regimes x (seven sparsities and 2:4) x three seeds.

    With the dense rows and the fine-tuned control; some cells failed, were not run or diverged.
    """
    source = random.Random(0)
    rows = []
    for model, dense in models.items():
        rows += _dense_rows(model, dense, len(sparsities), seeds, source)
        for method, steepness in METHODS.items():
            for regime in REGIMES:
                for target in (*sparsities, "2:4"):
                    alone = method == "magnitude" and regime == "oneshot"
                    rows += [
                        _cell(
                            model, dense, method, steepness, regime, target, sparsities, s, source
                        )
                        for s in ((None,) if alone else seeds)
                    ]
    return rows


def _dense_rows(
    model: str, dense: float, rounds: int, seeds: tuple[int, ...], source: random.Random
) -> list[dict[str, Any]]:
    base = {"model": model, "method": "dense", "sparsity": 0.0, "dense_perplexity": dense}
    base |= {"calibration_text": None, "calibration_tokens": None, "calibration_seq_len": None}
    rows = [make_row(**base, regime="dense", seed=None, perplexity=dense, round=0, path=[])]
    for turn in range(1, rounds + 1):
        trained = {"round": turn, "num_rounds": rounds, "num_finetune_tokens": turn * TOKENS}
        for seed in seeds:
            tuned = dense * (1 - 0.06 * (1 - math.exp(-turn / 2))) * source.gauss(1, 0.002)
            rows.append(
                make_row(
                    **base,
                    **trained,
                    regime="finetune",
                    seed=seed,
                    perplexity=tuned,
                    path=[0.0] * turn,
                    budget="round",
                )
            )
    return rows


def _cell(
    model: str,
    dense: float,
    method: str,
    steepness: float,
    regime: str,
    target: float | str,
    sparsities: tuple[float, ...],
    seed: int | None,
    source: random.Random,
) -> dict[str, Any]:
    structure = target if isinstance(target, str) else None
    sparsity = 0.5 if isinstance(target, str) else target
    loss = steepness * (sparsity + 0.1 * bool(structure)) ** 4 * 1.8
    raw = loss
    loss *= {"oneshot": 1.0, "finetune": 0.45, "iterative": 0.32}[regime]
    spread = 0.004 + 0.05 * sparsity**4
    known: dict[str, Any] = {
        "perplexity": dense * math.exp(loss) * math.exp(source.gauss(0, spread)),
        "path": [sparsity],
    }
    if regime != "oneshot":
        turn = sparsities.index(sparsity) + 1 if regime == "iterative" and not structure else 1
        known |= {
            "round": turn,
            "num_rounds": turn,
            "num_finetune_tokens": turn * TOKENS,
            "finetune_seconds": 61.0 * turn,
            "perplexity_before_finetune": dense * math.exp(raw * 0.8),
            "budget": "round",
            "schedule": "grid" if regime == "iterative" else None,
        }
        if turn > 1:
            known["path"] = list(sparsities[:turn])
    if method == "magnitude":
        known |= dict.fromkeys(("calibration_text", "calibration_tokens", "calibration_seq_len"))
    if method == "alps" and regime == "iterative" and sparsity >= 0.8:
        lost = sparsity == 0.8
        error = "ValueError: loss of layer 7 is not finite; use --finetune.lr below 0.0003"
        known |= {"status": "failed" if lost else "not_run", "error": error if lost else None}
    elif (method, sparsity, seed) == ("wanda", 0.9, 2):
        known["perplexity"] = math.inf if regime == "oneshot" else math.nan
    return make_row(
        model=model,
        method=method,
        regime=regime,
        sparsity=sparsity,
        mask_structure=structure,
        seed=seed,
        dense_perplexity=dense,
        **known,
    )
