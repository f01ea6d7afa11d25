"""Tables of published values: the project's own and a user's."""

import pytest

from orchestrator.results.published import TABLE, first_of_each, known_values, load_published


def test_a_users_table_comes_before_the_projects(tmp_path):
    own = tmp_path / "own.csv"
    head = TABLE.read_text(encoding="utf-8")
    columns = next(line for line in head.splitlines() if not line.startswith("#"))
    fields = dict.fromkeys(columns.split(","), "")
    fields |= {"model": "facebook/opt-125m", "method": "wanda", "sparsity": "0.5"}
    fields |= {"eval_text": "wikitext2", "perplexity": "12.5", "source": "mine"}
    fields |= {"protocol": "sparsegpt", "num_seeds": "1"}
    own.write_text(f"# measured here\n{columns}\n{','.join(fields.values())}\n")
    alike = [v for v in known_values(str(own)) if v.setting == known_values(str(own))[0].setting]
    (wikitext,) = [v for v in alike if v.eval_text == "wikitext2"]
    assert (wikitext.perplexity, wikitext.source) == (12.5, "mine")
    assert len(known_values(str(own))) == len(known_values(None))


@pytest.mark.parametrize("text", ["", "model,perplexity\nm,3\n", "not a table", None])
def test_a_table_that_cannot_be_read_is_named(tmp_path, text):
    path = tmp_path / "own.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match="--published .*own.csv") as error:
        known_values(str(path))
    assert "\n" not in str(error.value)


def test_published_table_agrees_with_the_papers():
    values = first_of_each(load_published())
    found = {(*v.setting, v.eval_text, v.protocol): v for v in values}
    wikitext = {key[:4]: v for key, v in found.items() if v.eval_text == "wikitext2"}
    assert wikitext["facebook/opt-125m", "dense", None, 0.0].perplexity == 27.66
    assert wikitext["facebook/opt-125m", "sparsegpt", None, 0.5].perplexity == 36.85
    assert wikitext["facebook/opt-1.3b", "wanda", "2:4", 0.5].perplexity == 28.34
    spread = wikitext["facebook/opt-1.3b", "sparsegpt", None, 0.7]
    assert (spread.perplexity, spread.std, spread.num_seeds) == (52.02, 2.2, 5)
    # The two codes read PTB differently, and both values stay.
    ptb = ("facebook/opt-1.3b", "sparsegpt", None, 0.5, "ptb")
    assert found[*ptb, "alps"].perplexity == 22.08
    assert found[*ptb, "sparsegpt"].perplexity == 25.8
    assert len(wikitext) == sum(v.eval_text == "wikitext2" for v in values) and all(
        v.source for v in values
    )


@pytest.mark.parametrize("sparsity", ["50", "-0.1", "nan"])
def test_a_sparsity_that_is_no_fraction_is_refused(tmp_path, sparsity):
    path = tmp_path / "own.csv"
    head = "model,method,mask_structure,sparsity,eval_text,perplexity,std,num_seeds,protocol,source"
    path.write_text(f"{head}\nm,wanda,,{sparsity},wikitext2,33.25,,1,sparsegpt,mine\n")
    with pytest.raises(ValueError, match="own.csv: use the columns of .*fraction between 0 and 1"):
        known_values(str(path))
