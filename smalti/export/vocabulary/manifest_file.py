"""`visual_vocab.json`: reading and writing a visual vocabulary."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from smalti.errors import SmaltiError
from smalti.export.vocabulary.grammar import Grammar, SizeText, SizeTokens
from smalti.export.vocabulary.manifest import VisualVocabulary
from smalti.export.vocabulary.names import CodeNames
from smalti.export.vocabulary.parts import Codes, GridRule, Special, TextVocabulary
from smalti.files import atomic_write

FILE_NAME = "visual_vocab.json"
FORMAT = "smalti-visual-vocabulary"
FORMAT_VERSION = 1


def save_vocabulary(file: Path, vocabulary: VisualVocabulary) -> None:
    """Write a vocabulary atomically.

    Raises:
        SmaltiError: the file cannot be written.
    """
    try:
        with atomic_write(file) as partial:
            partial.write_text(dumps(vocabulary), encoding="utf-8")
    except OSError as error:
        raise SmaltiError(f"The vocabulary cannot be written to {file}: {error.strerror or error}.") from error


def load_vocabulary(file: Path) -> VisualVocabulary:
    """Read a vocabulary from a file, or from `visual_vocab.json` in a folder.

    Raises:
        SmaltiError: there is no such file, or it is no valid vocabulary.
    """
    file = file / FILE_NAME if file.is_dir() else file
    if not file.is_file():
        raise SmaltiError(f"There is no vocabulary {file}: make one with `smalti vocabulary`.")
    try:
        return loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SmaltiError(f"{file} cannot be read as a vocabulary ({error}): make it again.") from error
    except SmaltiError as error:
        raise SmaltiError(f"{file}: {error}") from error


def dumps(vocabulary: VisualVocabulary) -> str:
    """Return the JSON text of a vocabulary. `loads` inverts it."""
    content: dict[str, Any] = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(vocabulary)}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def loads(text: str) -> VisualVocabulary:
    """Return the vocabulary of a JSON text.

    Raises:
        SmaltiError: the text is no valid vocabulary.
    """
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise SmaltiError(f"this is no JSON file ({error}): make it again with `smalti vocabulary`.") from error
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise SmaltiError("this is no visual vocabulary: pass a file that `smalti vocabulary` wrote.")
    version = content.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise SmaltiError(f"its format version is {version}: install a newer version of smalti.")
    try:
        return _build(content)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise SmaltiError(f"its content is damaged ({error}): make it again with `smalti vocabulary`.") from error


def _build(content: dict[str, Any]) -> VisualVocabulary:
    grammar = dict(content["grammar"])
    size = grammar.pop("size")
    if size is not None:
        grammar["size"] = SizeText(**size) if "text" in size else SizeTokens(**size)
    content |= {
        "codes": Codes(**_tuples(content["codes"])),
        "grid": GridRule(**_tuples(content["grid"])),
        "grammar": Grammar(**grammar),
        "specials": {role: Special(**special) for role, special in content["specials"].items()},
        "names": None if content["names"] is None else CodeNames(**content["names"]),
        "text": None if content["text"] is None else TextVocabulary(**content["text"]),
    }
    return VisualVocabulary(**_tuples(content))


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
