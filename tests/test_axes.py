"""Flags with several values, and files of blocks: the blocks that they make, and refusals."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path

import pytest

from core.checks import BadInputError
from orchestrator.blocks import axes_of, blocks_of, lines_left_out, science_of
from orchestrator.cli import parse
from orchestrator.config import SweepConfig

ROOT = Path(__file__).resolve().parents[1]


def config_of(line: str) -> SweepConfig:
    """Return the settings of a command line."""
    return parse(SweepConfig(), line.split(), "")


def axes(line: str) -> list[dict]:
    """Return the values of each block in which the blocks of a command line differ."""
    return axes_of(blocks_of(config_of(line)))


@pytest.mark.parametrize(
    ("line", "name", "values"),
    [
        ("--calibration.num-samples 16 64 128", "calibration.num_samples", [16, 64, 128]),
        ("--calibration.num-samples 16,64", "calibration.num_samples", [16, 64]),
        ("--calibration.text c4 wikitext2", "calibration.text", ["c4", "wikitext2"]),
        ("--prune.dampening-frac=0.01 0.1", "prune.dampening_frac", [0.01, 0.1]),
        ("--prune.refine None Swaps", "prune.refine", ["None", "swaps"]),
        ("--prune.keep-zeros False true", "prune.keep_zeros", ["False", "True"]),
        ("--finetune.tokens 1e4 2e4", "finetune.tokens", [10_000, 20_000]),
        (
            "--finetune.objective next-token reconstruct",
            "finetune.objective",
            ["next_token", "reconstruct"],
        ),
        ("--finetune.each-lr 1e-4 3e-4", "finetune.lr", [1e-4, 3e-4]),
        ("--finetune.each-lr 1e-4 1e-4+3e-4", "finetune.lr", ["0.0001", "0.0001+0.0003"]),
        (
            "--prune.each-uncompensated None k_proj k_proj+v_proj",
            "prune.uncompensated",
            ["None", "k_proj", "k_proj+v_proj"],
        ),
        (
            "--methods elsa --regimes joint --joint.penalty 0.1 0.2",
            "joint.penalty",
            [0.1, 0.2],
        ),
        ("--schedule grid Linear", "schedule", ["grid", "linear"]),
        ("--schedule cubic --num-rounds 2 4", "num_rounds", [2, 4]),
    ],
)
def test_each_value_of_a_flag_is_a_block(line, name, values):
    assert axes(line) == [{name: value} for value in values]


def test_blocks_are_the_product_of_all_axes():
    found = axes("--calibration.num-samples 16 64 --prune.dampening-frac 0.01 0.1")
    pairs = [(each["calibration.num_samples"], each["prune.dampening_frac"]) for each in found]
    assert pairs == [(16, 0.01), (16, 0.1), (64, 0.01), (64, 0.1)]


def test_one_value_of_everything_is_a_plain_setting():
    lines = ["--prune.dampening-frac 0.1", "--finetune.lr 1e-4 3e-4", "--finetune.each-lr 1"]
    for line in (*lines, "--schedule linear --num-rounds 3"):
        assert type(config_of(line)) is SweepConfig
    assert config_of("--finetune.each-lr 1e-4") == config_of("--finetune.lr 1e-4")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--calibration.num-samples 16 0", "--calibration.num-samples 0: use 1 or more"),
        ("--calibration.num-samples 16 None", "None: it has no value that is none"),
        ("--calibration.num-samples 16 x", "--calibration.num-samples x: give a whole number"),
        ("--calibration.num-samples 16 16", "--calibration.num-samples 16: given twice"),
        ("--calibration.num-samples 16,640", "16,640: give a whole number"),
        ("--prune.refine None swap", "--prune.refine 'swap' is unknown: did you mean 'swaps'?"),
        ("--num-workers 1 2", "--num-workers 1 2: takes only INT"),
        ("--finetune.distill yes no", "takes no value"),
        ("--finetune.each-lr 1 2 --finetune.lr 3", "leave out either this or --finetune.lr"),
        ("--prune.dampening-frac 1 2 --prune.dampening-frac 3", "is given twice"),
        ("--methods wanda --prune.dampening-frac 0.1 1", "no chosen method reads it"),
        ("--methods wanda --prune.each-uncompensated q k", "no chosen method reads it"),
        ("--regimes oneshot --finetune.tokens 1 2", "no chosen regime trains"),
        ("--prune.weight-bits 4 8", "--prune.weight-bits 4: training would move weights"),
        ("--schedule grid lineer", "--schedule 'lineer' is unknown: did you mean 'linear'?"),
        ("--schedule linear --num-rounds 2 2000", "--num-rounds 2000: use 1 to 1000"),
        ("--schedule grid linear --num-rounds 2 2000", "--num-rounds 2000: use 1 to 1000"),
        ("--num-rounds 2 4", "--num-rounds 2: only --schedule linear or cubic has rounds"),
        ("--regimes oneshot --schedule grid linear", "only the iterative regime has rounds"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(line, message):
    with pytest.raises(BadInputError) as caught:
        config_of(line)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_the_schedule_of_the_grid_has_no_number_of_rounds():
    line = "--schedule grid linear cubic --num-rounds"
    found = [(b.grid.schedule, b.grid.num_rounds) for b in blocks_of(config_of(f"{line} 2 4"))]
    several = [(name, count) for name in ("linear", "cubic") for count in (2, 4)]
    assert found == [("grid", None), *several] and not lines_left_out(config_of(f"{line} 2 4"))
    found = [(b.grid.schedule, b.grid.num_rounds) for b in blocks_of(config_of(f"{line} 3"))]
    assert found == [("grid", None), ("linear", 3), ("cubic", 3)]


def test_too_many_combinations_are_refused():
    many = " ".join(map(str, range(1, 101)))
    with pytest.raises(BadInputError, match="make 10,000 combinations; give fewer values"):
        config_of(f"--calibration.num-samples {many} --prune.block-size {many}")


def test_a_structure_is_left_out_of_the_blocks_that_cannot_have_it():
    line = "--prune.allocation owl uniform --mask-structures 2:4 --regimes oneshot --seeds 0 1"
    owl, uniform = blocks_of(config_of(line))
    assert (owl.grid.mask_structures, uniform.grid.mask_structures) == ((), ("2:4",))
    (said,) = lines_left_out(config_of(line))
    assert said.startswith("left out 6 cells that cannot be: --prune.allocation owl: does not work")
    with pytest.raises(BadInputError, match="--prune.allocation owl: does not work"):
        config_of(f"{line} --sparsities")


def test_regimes_and_combinations_that_cannot_be_are_left_out():
    config = config_of("--prune.weight-bits None 4 --prune.quant-group-size None 64")
    found = [(b.prune.weight_bits, b.prune.quant_group_size) for b in blocks_of(config)]
    assert found == [(None, None), (4, None), (4, 64)]
    assert [block.grid.regimes == ("oneshot",) for block in blocks_of(config)] == [0, 1, 1]
    group, bits = lines_left_out(config)
    # Of sparsegpt, which alone reads them, at five sparsities: three regimes, or two of two blocks.
    assert group.startswith("left out 15 cells") and "has no effect without" in group
    assert bits.startswith("left out 20 cells") and "use --regimes oneshot" in bits


# Files --------------------------------------------------------------------------------------------

YAML = """
methods: [sparsegpt]
mask-structures: 2:4
eval.max-windows: 2
blocks:
  - calibration: {num_samples: [16, 64]}
    prune.dampening-frac: 1e-2
    sparsities: [0.5]
  - sparsities: []
    prune: {refine: [null, swaps], keep-zeros: false}
"""
TOML = """
methods = ["sparsegpt"]
mask-structures = ["2:4"]
eval.max-windows = 2
[[blocks]]
calibration.num_samples = [16, 64]
prune.dampening-frac = 1e-2
sparsities = [0.5]
[[blocks]]
sparsities = []
[blocks.prune]
refine = ["None", "swaps"]
keep-zeros = false
"""


def written(tmp_path, name: str, text: str) -> str:
    """Write a file; return the flag that names it."""
    (tmp_path / name).write_text(text)
    return f"--grid {tmp_path / name}"


def test_blocks_of_a_search_have_the_same_seeds(tmp_path):
    file = written(tmp_path, "a.yaml", "- methods: wanda\n- {methods: alps, seeds: [0, 1]}\n")
    assert len(blocks_of(config_of(file))) == 2
    with pytest.raises(BadInputError, match="--seeds 0 1: a search .* needs the same seeds in all"):
        config_of(f"{file} --within 1.5")


@pytest.mark.parametrize(("name", "text"), [("a.yaml", YAML), ("a.toml", TOML)])
def test_a_file_holds_blocks_each_a_product(tmp_path, name, text):
    config = config_of(f"{written(tmp_path, name, text)} --regimes oneshot")
    found = [
        (b.calibration.num_samples, b.prune.refine, b.grid.sparsities) for b in blocks_of(config)
    ]
    assert found == [(16, None, (0.5,)), (64, None, (0.5,)), (128, None, ()), (128, "swaps", ())]
    for block in blocks_of(config):
        assert block.grid.mask_structures == ("2:4",) and block.eval.max_windows == 2
        assert block.grid.regimes == ("oneshot",) and block.grid.grid is None


def test_a_file_is_multiplied_by_the_axes_of_the_command_line(tmp_path):
    file = written(tmp_path, "a.yml", "- prune.dampening-frac: [0.1, 0.2]\n- methods: alps\n")
    assert len(blocks_of(config_of(f"{file} --calibration.num-samples 8 16"))) == 6


def test_the_record_of_a_sweep_is_a_file_of_blocks(tmp_path):
    line = "--methods alps --regimes oneshot --calibration.num-samples 8 16 --eval.max-windows 3"
    blocks = blocks_of(config_of(line))
    record = {"sweep_id": "x", "config": blocks[0].to_dict()}
    several = record | {"blocks": [dict(science_of(block)) for block in blocks]}
    file = written(tmp_path, "a.json", json.dumps(several))
    again = blocks_of(config_of(f"{file} --num-workers 2"))
    assert axes_of(again) == axes_of(blocks)
    assert [science_of(block) for block in again] == [science_of(block) for block in blocks]
    assert again[1].eval.max_windows == 3 and again[1].resources.num_workers == 2
    other = blocks_of(config_of(f"{file} --eval.max-windows 5"))
    assert other[0].eval.max_windows == 5
    with pytest.raises(BadInputError, match="--models has no effect: .*a.json gives it too"):
        config_of(f"{file} --models embedded")
    alone = written(tmp_path, "b.json", json.dumps(record))
    assert config_of(alone) == blocks[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- nosuch: 1", "nosuch is no setting of a block"),
        ("- num-workers: 2", "num-workers is no setting of a block; give it on the command line"),
        ("- prune.nosuch: 2", "block 1 of --grid: --prune.nosuch is unknown"),
        ("- methods: [wanda]\n- methods: [wonder]", "block 2 of --grid: --methods 'wonder'"),
        ("methods: [wanda]\nblocks:\n  - methods: [alps]", "block 1 gives methods again"),
        ("- eval.max-windows: 2", "all blocks share eval.max-windows; give it beside the blocks"),
        ("- protocol: wanda", "all blocks share protocol"),
        ("- sparsities: [0.5]", "--sparsities has no effect: .* gives it too"),
        ("- methods: [wanda]\n  prune.dampening-frac: 1", "no chosen method reads it"),
        ("5", "is no list of blocks"),
        ("[]", "is no list of blocks"),
        ("- [", "is no YAML or TOML"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path, text, message):
    with pytest.raises(BadInputError, match=message) as caught:
        config_of(f"{written(tmp_path, 'a.yaml', text)} --sparsities 0.5")
    assert "\n" not in str(caught.value)


def test_the_file_of_the_documentation_is_read(tmp_path):
    said = (ROOT / "experiments" / "README.md").read_text(encoding="utf-8")
    text = textwrap.dedent(re.search(r"\n(    methods: .*?)\n\n", said, re.DOTALL)[1] + "\n")
    blocks = blocks_of(config_of(written(tmp_path, "a.yaml", text)))
    found = [(b.calibration.num_samples, b.prune.refine, b.grid.sparsities) for b in blocks]
    assert found[2:] == [(128, None, (0.5, 0.7)), (128, None, (0.9,)), (128, "swaps", (0.9,))]
    assert {block.eval.max_windows for block in blocks} == {16}


def test_an_absent_file_is_refused():
    with pytest.raises(BadInputError, match="--grid nosuch.yaml: cannot be read"):
        config_of("--grid nosuch.yaml")
