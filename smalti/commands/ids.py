"""`smalti ids`: convert a token file to ids of a language model, and back."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from smalti.cli.options import (
    add_output_options,
    add_tokenizer_options,
    check_exists,
    check_tokenizer,
    open_device,
    open_tokenizer,
    parse_rate,
)
from smalti.cli.outputs import check_new_file, print_next
from smalti.cli.parser import CommandParser
from smalti.errors import SmaltiError
from smalti.files import atomic_write

if TYPE_CHECKING:
    import numpy as np

    from smalti.export.vocabulary import VisualVocabulary
    from smalti.tokenizers.tokenizer import Tokenizer
    from smalti.types import Layout

_EXAMPLES = (
    "smalti ids photo.safetensors --vocabulary visual_vocab.json --out photo.npy",
    "smalti ids photo.npy --vocabulary visual_vocab.json --tokenizer my-tokenizer --out generated.safetensors",
)


def run(name: str, arguments: list[str]) -> int:
    """Convert a token file to a NumPy file of ids, or ids to a token file.

    Raises:
        SmaltiError: an option is invalid, a file cannot be read or written, or its ids are not those of the vocabulary.
    """
    parser = CommandParser(
        name,
        "Convert a token file (.safetensors) to the ids of a language model (.npy), or such ids to a token file, which "
        "`smalti detokenize` decodes.",
        _EXAMPLES,
        "Ids are those of one image or clip, with all tokens of the grammar, in the shape that the layout has. The size of "
        "an image is that of its grid, unless --size states it.",
    )
    parser.add_argument("input", type=Path, help="token file (.safetensors), or ids (.npy)")
    add_output_options(parser, "file to write: ids (.npy), or a token file (.safetensors)", "replace an existing file")
    parser.add_argument_group("vocabulary").add_argument(
        "--vocabulary", type=Path, required=True, metavar="PATH", help="visual_vocab.json of `smalti vocabulary`"
    )
    add_tokenizer_options(parser)
    sample = parser.add_argument_group("what the ids are of")
    sample.add_argument(
        "--size", type=_parse_size, metavar="HxW", help="height and width in pixels of an image of ids, such as 256x256"
    )
    sample.add_argument(
        "--rate", type=parse_rate, metavar="FPS", help="frame rate of a clip of ids in frames per second, such as 12.5"
    )
    options = parser.parse(arguments)
    check_exists(options.input, "token file")
    suffixes = {".safetensors": ".npy", ".npy": ".safetensors"}
    expected = suffixes.get(options.input.suffix)
    if expected is None or options.out.suffix != expected:
        raise SmaltiError(
            f"{options.input} to {options.out}: convert a token file (.safetensors) to ids (.npy), or ids to a token file."
        )
    if expected == ".npy" and (options.size or options.rate):
        raise SmaltiError(f"{options.input} states its size and its frame rate: leave out --size and --rate.")
    check_new_file(options.out, overwrite=options.overwrite)
    return _to_ids(options) if expected == ".npy" else _from_ids(options)


def _to_ids(options: argparse.Namespace) -> int:
    import numpy as np

    from smalti.export.token_files import load_tokens
    from smalti.export.vocabulary.manifest_file import load_vocabulary

    content, vocabulary = load_tokens(options.input), load_vocabulary(options.vocabulary)
    if vocabulary.tokenizer not in (None, content.fingerprint):
        raise SmaltiError(
            f"{options.input} was made by other weights than those of {options.vocabulary}: make a vocabulary of its "
            "tokenizer."
        )
    sequences = vocabulary.to_ids(content.tokens)
    if len(sequences) != 1:
        raise SmaltiError(f"{options.input} contains {len(sequences)} samples: use VisualVocabulary.to_ids in Python.")
    ids = sequences[0].astype(np.int32 if vocabulary.rows <= 2**31 else np.int64)
    try:
        with atomic_write(options.out) as partial:
            np.save(partial, ids)
    except OSError as error:
        raise SmaltiError(f"The ids cannot be written to {options.out}: {error.strerror or error}.") from error
    print(f"{options.out}: {ids.dtype} {ids.shape}, ids below {vocabulary.rows}")
    return 0


def _from_ids(options: argparse.Namespace) -> int:
    path = check_tokenizer(options.tokenizer)

    from smalti.export.token_files import TokenFile, portable_path, save_tokens
    from smalti.export.vocabulary.manifest_file import load_vocabulary
    from smalti.export.vocabulary.new_vocabulary import check_fits
    from smalti.tokenizers.checkpoints import fingerprint

    vocabulary, ids = load_vocabulary(options.vocabulary), _load_ids(options.input)
    tokenizer, weights = open_tokenizer(path, open_device(options.device), tile=options.tile), fingerprint(path)
    check_fits(vocabulary, tokenizer, weights)
    layout = _layout(tokenizer, vocabulary, ids, options.size)
    if (layout.frames is None) != (options.rate is None):
        advice = "leave out --rate" if layout.frames is None else "state its frame rate with --rate"
        raise SmaltiError(f"{options.input} contains {'an image' if layout.frames is None else 'a clip'}: {advice}.")
    tokens = vocabulary.from_ids([ids], layout)
    recorded = portable_path(path, options.out.parent)
    save_tokens(options.out, TokenFile(tokens, recorded, weights, options.rate), tokenizer.quantizer.codebook_size)
    print(f"{options.out}: {layout.positions} positions, {layout.size[0]} x {layout.size[1]} pixels")
    suffix = ".png" if layout.frames is None else ".mp4"
    print_next("To decode it", "detokenize", options.out, "--out", f"decoded{suffix}", "--tokenizer", path)
    return 0


def _layout(
    tokenizer: Tokenizer, vocabulary: VisualVocabulary, ids: np.ndarray, size: tuple[int, int] | None
) -> Layout:
    """Return the layout of ids: of a size in pixels, or of the whole grid that the ids or the vocabulary state."""
    stride = tokenizer.encoder.stride
    states_grid = vocabulary.grammar.size is not None or vocabulary.grid.fixed is not None
    if not states_grid and (size is None or vocabulary.grid.axes == "thw"):
        raise SmaltiError(
            f"Sequences of the preset {vocabulary.preset} do not state their grid: pass --size for an image, or make the "
            "vocabulary with --grid."
        )
    frames = None
    if states_grid:
        *time, h, w = vocabulary.find_grid(ids)
        size = size or (h * stride[1], w * stride[2])
        frames = 1 + (time[0] - 1) * stride[0] if time and time[0] > 1 else None
    assert size is not None
    return tokenizer.layout(size, frames)


def _load_ids(file: Path) -> np.ndarray:
    import numpy as np

    try:
        ids = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise SmaltiError(f"{file} cannot be read as a NumPy file ({error}): write it with numpy.save.") from error
    if not isinstance(ids, np.ndarray):
        raise SmaltiError(f"{file} contains several arrays: write one with numpy.save.")
    return ids


def _parse_size(text: str) -> tuple[int, int]:
    """Parse a size such as 256x256.

    Raises:
        SmaltiError: the text is no size.
    """
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdigit() and int(part) for part in parts):
        raise SmaltiError(f"--size is '{text}': give height and width in pixels, such as 256x256.")
    return int(parts[0]), int(parts[1])
