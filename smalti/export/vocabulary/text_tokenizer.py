"""Text tokenizers of Hugging Face: measuring them, and adding the strings of a visual vocabulary.

Strings cost time: a tokenizer with 8,192, 65,536 or 131,072 added strings loads in about 1, 6 or 12 seconds. Ids without
strings are the better choice for large codebooks.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smalti.errors import MissingExtraError, SmaltiError
from smalti.export.vocabulary.parts import TextVocabulary

if TYPE_CHECKING:
    from smalti.export.vocabulary.manifest import VisualVocabulary

_FILLER = "<|visual padding {n:06d}|>"
"""Strings of ids between the end of the tokenizer and the first visual id, where the embedding table is padded."""


def load_text_tokenizer(path: str | Path) -> Any:
    """Load a tokenizer of Hugging Face without running code from its folder.

    Raises:
        MissingExtraError: transformers is not installed.
        SmaltiError: there is no such tokenizer, or it needs code of its own.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise MissingExtraError("transformers", "transformers", "Text tokenizers") from error
    try:
        return AutoTokenizer.from_pretrained(str(path), trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SmaltiError(f"{path} cannot be loaded as a text tokenizer ({reason}): pass the folder of one.") from error


def config_rows(path: str | Path) -> int:
    """Return the rows of the embedding table that config.json next to a tokenizer states; 0 if there is none.

    Raises:
        SmaltiError: config.json is damaged.
    """
    file = Path(path) / "config.json"
    if not file.is_file():
        return 0
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        size = config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size") or 0
        return int(size)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise SmaltiError(f"{file} is damaged ({error}): pass the folder of the language model again.") from error


def measure(tokenizer: Any, rows: int = 0) -> TextVocabulary:
    """Return the facts about a text tokenizer that a visual vocabulary records.

    Args:
        tokenizer: a tokenizer of Hugging Face, before visual strings are added.
        rows: rows of the embedding table, config.vocab_size; 0 if there is no model yet.
    """
    count = max(len(tokenizer), max(tokenizer.get_vocab().values(), default=-1) + 1)
    return TextVocabulary(len_tokenizer=count, config_rows=rows or count, sha256=fingerprint(tokenizer))


def fingerprint(tokenizer: Any) -> str:
    """Return the SHA-256 of the strings and ids of a text tokenizer, 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()


def find_string(tokenizer: Any, string: str) -> int | None:
    """Return the id of a string that is exactly one token; None if there is no such token."""
    return tokenizer.get_vocab().get(string)


def character_ids(tokenizer: Any, characters: str) -> dict[str, int]:
    """Return the id of each character as a token of its own, for the text of a size.

    Raises:
        SmaltiError: a character is no token of its own.
    """
    vocabulary = tokenizer.get_vocab()
    missing = sorted(set(characters) - set(vocabulary))
    if missing:
        raise SmaltiError(
            f"The text tokenizer has no token for '{missing[0]}' alone, which the size of an image needs: choose a preset "
            "without a size text."
        )
    return {character: vocabulary[character] for character in characters}


def check_strings(tokenizer: Any, vocabulary: VisualVocabulary) -> None:
    """Check that every string of a visual vocabulary becomes exactly one id, its own.

    Raises:
        SmaltiError: one does not.
    """
    expected = vocabulary.strings()
    encoded = tokenizer(list(expected.values()), add_special_tokens=False)["input_ids"]
    for (number, string), ids in zip(expected.items(), encoded, strict=True):
        if list(ids) != [number]:
            raise SmaltiError(
                f"The text tokenizer encodes '{string}' as {list(ids)[:9]}, but it must be the one id {number}: add the "
                "strings of this vocabulary to the tokenizer with which it was made."
            )


def check_text_tokenizer(tokenizer: Any, vocabulary: VisualVocabulary) -> None:
    """Check that a visual vocabulary was made with a text tokenizer, to which its strings may have been added.

    Raises:
        SmaltiError: it was made with another one, or with none.
    """
    known, strings = tokenizer.get_vocab(), vocabulary.strings()
    if vocabulary.text is None:
        raise _other_tokenizer()
    if len(known) == vocabulary.text.len_tokenizer and vocabulary.text.sha256 not in (None, fingerprint(tokenizer)):
        raise _other_tokenizer()
    used = {number: string for string, number in known.items()}
    for number in (*vocabulary.code_range, *(special.id for special in vocabulary.specials.values())):
        if used.get(number, strings.get(number)) != strings.get(number):
            raise _other_tokenizer()


def add_strings(tokenizer: Any, vocabulary: VisualVocabulary) -> int:
    """Add the strings of a visual vocabulary to a text tokenizer, in place, and check them.

    Args:
        tokenizer: the tokenizer with which the vocabulary was made, or one that has the strings already.
        vocabulary: a vocabulary; if its codes have no strings, only those of its grammar are added.

    Returns:
        The number of added strings. Where the embedding table is padded, fillers make the ids agree.

    Raises:
        SmaltiError: it is another tokenizer, or a string does not become exactly its own id.
    """
    from transformers import AddedToken

    known = tokenizer.get_vocab()
    missing = {number: string for number, string in sorted(vocabulary.strings().items()) if string not in known}
    if missing:
        _check_same(tokenizer, vocabulary)
        first, last = len(tokenizer), max(missing)
        if min(missing) < first:
            raise SmaltiError(
                f"'{missing[min(missing)]}' has the id {min(missing)}, which the text tokenizer uses for another string: "
                "make the vocabulary with this tokenizer."
            )
        strings = [missing.get(number, _FILLER.format(n=number)) for number in range(first, last + 1)]
        tokenizer.add_tokens([AddedToken(string, special=True, normalized=False) for string in strings])
    check_strings(tokenizer, vocabulary)
    return len(tokenizer) - len(known) if missing else 0


def _check_same(tokenizer: Any, vocabulary: VisualVocabulary) -> None:
    text = vocabulary.text
    if text is None or (text.sha256 is not None and text.sha256 != fingerprint(tokenizer)):
        raise _other_tokenizer()


def _other_tokenizer() -> SmaltiError:
    return SmaltiError(
        "The visual vocabulary was not made with this text tokenizer: make one with `smalti vocabulary --text-tokenizer`."
    )
