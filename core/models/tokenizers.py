"""Tokenizers stored with models.

Nothing here imports transformers' models, which take seconds to import.
"""

from __future__ import annotations

import re
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from core.checks import BadInputError, require
from core.hub.identity import LFS_POINTER
from core.models.checkpoint_files import no_content
from core.models.configs import as_source, in_a_line, quiet
from core.models.sources import TOKENIZER_FILES, ModelSource, tokenizer_dir

NO_TOKENIZER = "has no tokenizer files; save its tokenizer beside it"


def load_tokenizer(source: ModelSource | str | Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer stored with a model.

    Raises:
        ValueError: in one line, if there is none.
    """
    source = as_source(source)
    try:
        with quiet():
            directory = tokenizer_dir(source)
            require_content(source.name, directory)
            tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    except BadInputError:
        raise
    except Exception as error:
        told = in_a_line(error).rstrip(" :.")
        remedy = f"its tokenizer cannot be loaded: {told}; save its tokenizer beside it again"
        raise BadInputError(f"--models {source.name}: {remedy}") from error
    # Without tokenizer files some families silently get a tokenizer that knows no text.
    known = len(tokenizer) > len(tokenizer.all_special_tokens)
    require(known, "models", source.name, NO_TOKENIZER)
    return tokenizer


def require_content(name: str, directory: Path) -> None:
    """Refuse a tokenizer without a vocabulary, and files that are empty or git-lfs pointers."""
    files = [file for file in directory.iterdir() if TOKENIZER_FILES.fullmatch(file.name)]
    vocabularies = [file for file in files if not re.search("_config|_tokens", file.name)]
    require(bool(vocabularies), "models", name, NO_TOKENIZER)
    for file in filter(Path.is_file, files):
        with open(file, "rb") as opened:
            reason = no_content(opened.read(len(LFS_POINTER)))
        require(reason is None, "models", name, f"{file.name} {reason}")
