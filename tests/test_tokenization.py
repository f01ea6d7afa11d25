"""Texts tokenised in pieces give the tokens of the whole text, or are not cut at all."""

import pytest
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from core.models.tokenizers import load_tokenizer
from core.texts import tokenization
from core.texts.content import joined
from core.texts.named_texts import EMBEDDED_DIR
from core.texts.sources import resolve_text
from core.texts.tokenization import cut, cuts_at_lines, tokenize

HOSTILE = (
    "a\nb a\n\nb a \nb a\n b a\r\nb a's\ns 1\n1 .\n2 é\nb a\né \u2028a\n\n\n  b\ta\n\tb </s>\nb "
    "a\n</s>b's\n't !\nthe \x1ca\nb <s>\na\u00a0\nb it's\nre. . .\nA ...\n\n"
    "1\n\n1a\n\n\nA1\nA\t\nb \r\n\nA\x1c\n\nA \n \nA\u00a0\n\nA\u3000\n\nA</s>\n\nA <s> \n\nA\n\n"
    "a\n\n's a\n\n\n.. b::\n\n- c\n\n</s>\n\n<a> \n\n  d\n\n\\e\n\n[f]\n\n~~~\n\n" * 60
)
MODEL = str(EMBEDDED_DIR.parent / "model")
# What OPT's vocab.json and merges.txt give by byte-level BPE: computed once with the algorithm of
# GPT-2's encoder.py in plain Python and with `tokenizers.ByteLevelBPETokenizer`, which agreed; in
# front `</s>`. None of it went through transformers or this project.
OPT_IDS = {
    "": [2],
    "Hello world": [2, 31414, 232],
    " = Robert Boulter = \n": [2, 5457, 1738, 163, 5156, 1334, 5457, 1437, 50118],
    "first line\nsecond line": [2, 9502, 516, 50118, 10815, 516],
    "a paragraph\n\n\n\nanother one\n": ([2, 102, 17818, 50140, 50118, 50118, 30303, 65, 50118]),
    "trailing newline \n \n": [2, 9738, 7022, 92, 1902, 1437, 50118, 1437, 50118],
    "  two spaces, a\ttab ": [2, 1437, 80, 5938, 6, 10, 50117, 34108, 1437],
    "In 2019, 1,234.5 tons cost $ 99 @-@ 100 %": (
        [2, 1121, 954, 6, 112, 6, 28621, 4, 245, 7741, 701, 68, 6705, 787, 12, 1039, 727, 7606]
    ),
    "na\u00efve caf\u00e9 \u2014 \u65e5\u672c\u8a9e \U0001f600": (
        [2, 2133, 48350, 26059, 93, 47416, 6800, 8210, 44636, 11582, 48537, 17772, 17841, 7471]
    ),
    "it's they'll we'd DON'T": [2, 405, 18, 51, 581, 52, 1017, 24980, 108, 565],
    "<unk> no it was n't black monday N": (
        [2, 41552, 6435, 15698, 117, 24, 21, 295, 75, 909, 475, 46328, 234]
    ),
}


@pytest.fixture(scope="module")
def opt_tokenizer(shared_dir):
    return load_tokenizer(shared_dir / "models" / "opt-tokenizer")


@pytest.fixture(params=["embedded", "digits", "tiny", "opt"])
def tokenizer(request, tiny_opt_dir):
    if request.param == "opt":
        return request.getfixturevalue("opt_tokenizer")
    if request.param == "digits":
        levels = '"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true}'
        digits = '{"type":"Digits","individual_digits":true}'
        both = f'"Sequence","pretokenizers":[{digits},{{"type":{levels}]}}'
        return changed(load_tokenizer(MODEL), levels, both)
    return load_tokenizer(MODEL if request.param == "embedded" else tiny_opt_dir)


def changed(tokenizer, old, new):
    """The same tokenizer with a part of its description replaced."""
    text = tokenizer.backend_tokenizer.to_str()
    assert old in text
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(text.replace(old, new)))


@pytest.mark.parametrize("text", OPT_IDS)
def test_opt_ids_are_those_of_the_original_tokenizer(text, opt_tokenizer):
    assert tokenize(text, opt_tokenizer).tolist() == OPT_IDS[text]


@pytest.mark.parametrize("content", [HOSTILE, joined(resolve_text("embedded", "calibration"))])
@pytest.mark.parametrize("size", [1, 37, 5000])
def test_pieces_give_the_tokens_of_the_whole(content, size, tokenizer, monkeypatch):
    monkeypatch.setattr(tokenization, "PIECE_CHARS", size)
    expected = tokenizer(content, verbose=False)["input_ids"]
    found = tokenize(content, tokenizer)
    assert found.dtype == torch.long and found.tolist() == expected
    assert len(cut(content)) > 1 and "".join(cut(content)) == content


def test_a_tokenizer_that_pads_and_truncates_gives_all_tokens_of_each_piece(monkeypatch):
    tokenizer = load_tokenizer(MODEL)
    text = "one line\n" * 40 + "and a longer one\n" * 40
    expected = tokenizer(text)["input_ids"]
    monkeypatch.setattr(tokenization, "PIECE_CHARS", 20)
    assert tokenize(text, tokenizer).tolist() == expected
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.enable_padding(length=50)
    assert tokenize(text, tokenizer).tolist() == expected


def test_the_description_of_a_tokenizer_is_read_once_for_all_its_documents(monkeypatch):
    tokenizer = load_tokenizer(MODEL)
    monkeypatch.setattr(tokenization, "PIECE_CHARS", 20)
    before = cuts_at_lines.cache_info().misses
    for number in range(5):
        tokenize(f"document {number}\n" * 9, tokenizer)
    assert cuts_at_lines.cache_info().misses == before + 1


def test_special_tokens_behind_the_text_come_once_too(monkeypatch):
    tokenizer = load_tokenizer(MODEL)
    both = changed(
        tokenizer,
        '{"Sequence":{"id":"A","type_id":0}}],"pair"',
        '{"Sequence":{"id":"A","type_id":0}},{"SpecialToken":{"id":"</s>","type_id":0}}],"pair"',
    )
    monkeypatch.setattr(tokenization, "PIECE_CHARS", 20)
    found = tokenize("one line\n" * 50, both)
    assert found.tolist() == both("one line\n" * 50)["input_ids"]
    assert (found == 2).nonzero().flatten().tolist() == [0, len(found) - 1]


def test_tokenizers_that_might_look_across_a_line_break_get_the_whole_text():
    tokenizer = load_tokenizer(MODEL)
    assert cuts_at_lines(tokenizer)
    for old, new in (
        ('"add_prefix_space":false', '"add_prefix_space":true'),
        ('"use_regex":true', '"use_regex":false'),
        ('"normalizer":null', '"normalizer":{"type":"Strip","strip_left":true,"strip_right":true}'),
        ('"lstrip":false', '"lstrip":true'),
        ('"content":"<unk>"', '"content":"unk"'),
    ):
        assert not cuts_at_lines(changed(tokenizer, old, new))
