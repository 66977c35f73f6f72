"""`smalti vocabulary`: describe the tokens of a tokenizer as ids of a language model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from smalti.cli.options import TOKENIZER_HELP, check_tokenizer
from smalti.cli.parser import CommandParser
from smalti.errors import SmaltiError
from smalti.files import check_writable

if TYPE_CHECKING:
    from smalti.export.vocabulary import VisualVocabulary

_EXAMPLES = (
    "smalti vocabulary my-tokenizer --preset flat --out visual_vocab.json",
    "smalti vocabulary my-tokenizer --preset emu3 --text-tokenizer my-language-model --out visual_vocab.json",
)


def run(name: str, arguments: list[str]) -> int:
    """Write visual_vocab.json, and optionally the text tokenizer with the new strings and the codewords.

    Raises:
        SmaltiError: an option is invalid, the preset does not fit the tokenizer, or a file cannot be written.
    """
    parser = _parser(name)
    options = parser.parse(arguments)
    from smalti.export.vocabulary import PRESETS

    if options.list:
        print("\n".join(f"{preset.name:<15} {preset.summary}" for preset in PRESETS.values()))
        return 0
    _check(options)
    vocabulary = _make(options)
    print(f"{options.out}: {describe(vocabulary)}")
    return 0


def describe(vocabulary: VisualVocabulary) -> str:
    """Return a vocabulary in one line."""
    low, high = vocabulary.code_range
    entries = len(vocabulary.codes.entries)
    strings = "with strings" if vocabulary.names is not None else "no strings"
    per_position = f"{entries} {'id' if entries == 1 else 'ids'} per position"
    return (
        f"preset {vocabulary.preset}, {vocabulary.codes.bits:g} bits per position, {per_position}, codes {low} to {high}, "
        f"{vocabulary.rows} rows, {strings}"
    )


def _parser(name: str) -> CommandParser:
    parser = CommandParser(
        name,
        "Write a vocabulary file: how the tokens of a tokenizer become ids of a language model. Without a tokenizer, write "
        "the published vocabulary of a preset.",
        _EXAMPLES,
    )
    parser.add_argument("tokenizer", type=Path, nargs="?", help=f"visual tokenizer: {TOKENIZER_HELP}")
    parser.add_argument("--list", action="store_true", help="list the presets and exit")
    output = parser.add_argument_group("output")  # not required, because --list writes nothing
    output.add_argument("--out", "-o", type=Path, metavar="PATH", help="vocabulary file (.json) to write")
    output.add_argument("--overwrite", action="store_true", help="replace existing files")
    group = parser.add_argument_group("vocabulary")
    group.add_argument("--preset", metavar="NAME", help="grammar and layout of the ids; see --list")
    group.add_argument(
        "--grid",
        type=_parse_grid,
        metavar="HxW",
        help="the only grid of latent positions, such as 32x32 (default: any)",
    )
    text = parser.add_argument_group("text tokenizer")
    text.add_argument(
        "--text-tokenizer",
        metavar="PATH",
        help="folder of a Hugging Face tokenizer or language model: new ids start after its ids and its embedding rows",
    )
    text.add_argument(
        "--strings",
        action="store_true",
        help="give each code a string in the text tokenizer (default: ids only, which loads faster)",
    )
    text.add_argument(
        "--text-out",
        type=Path,
        metavar="PATH",
        help="folder to write the text tokenizer with new strings to",
    )
    parser.add_argument_group("embeddings").add_argument(
        "--embeddings",
        type=Path,
        metavar="PATH",
        help="safetensors file to write the codewords to, as initial embeddings",
    )
    return parser


def _check(options: argparse.Namespace) -> None:
    if options.preset is None or options.out is None:
        raise SmaltiError("Pass --preset NAME and --out PATH, or --list to see the presets.")
    if options.tokenizer is not None:
        check_tokenizer(options.tokenizer)
    if options.tokenizer is None and (options.text_tokenizer or options.embeddings or options.grid):
        raise SmaltiError("A published vocabulary takes no other options: pass your tokenizer to make a new one.")
    if options.text_out and not options.text_tokenizer:
        raise SmaltiError("--text-out needs --text-tokenizer.")
    for path in filter(None, (options.out, options.embeddings, options.text_out)):
        if path.is_dir() and path != options.text_out:
            raise SmaltiError(f"{path} is a folder: choose the name of a file.")
        check_writable(path.parent)
        if path.exists() and not options.overwrite:
            raise SmaltiError(f"{path} already exists: choose another path, or pass --overwrite.")


def _make(options: argparse.Namespace) -> VisualVocabulary:
    from smalti.export.vocabulary import published
    from smalti.export.vocabulary.manifest_file import save_vocabulary

    if options.tokenizer is None:
        vocabulary = published(options.preset)
        save_vocabulary(options.out, vocabulary)
        return vocabulary

    from smalti.export.vocabulary.embeddings import save_codebook_vectors
    from smalti.export.vocabulary.new_vocabulary import codes_of, make_vocabulary
    from smalti.export.vocabulary.text_tokenizer import add_strings, config_rows, load_text_tokenizer
    from smalti.tokenizers.checkpoints import fingerprint, load

    tokenizer = load(options.tokenizer, "cpu")
    text = load_text_tokenizer(options.text_tokenizer) if options.text_tokenizer else None
    vocabulary = make_vocabulary(
        options.preset,
        codes_of(tokenizer),
        axes="thw" if tokenizer.encoder.stride[0] > 1 else "hw",
        text_tokenizer=text,
        config_rows=config_rows(options.text_tokenizer) if options.text_tokenizer else 0,
        strings=options.strings,
        grid=options.grid,
        tokenizer=fingerprint(options.tokenizer),
    )
    if text is not None and (options.strings or options.text_out):
        add_strings(text, vocabulary)
    if options.embeddings:
        save_codebook_vectors(options.embeddings, tokenizer.quantizer, vocabulary)
    if text is not None and options.text_out:
        text.save_pretrained(options.text_out)
    save_vocabulary(options.out, vocabulary)
    return vocabulary


def _parse_grid(text: str) -> tuple[int, ...]:
    """Parse a grid such as 32x32, or 5x32x32 for videos.

    Raises:
        SmaltiError: the text is no grid.
    """
    parts = text.lower().split("x")
    if len(parts) not in (2, 3) or not all(part.isdigit() and int(part) for part in parts):
        raise SmaltiError(f"--grid is '{text}': give latent positions as HxW, such as 32x32, or as TxHxW for videos.")
    return tuple(int(part) for part in parts)
