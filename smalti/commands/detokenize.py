"""`smalti detokenize`: convert token files to images and videos."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from smalti.cli.options import (
    BFLOAT16_DECODER_HELP,
    MEDIA_OUTPUT_HELP,
    add_file_options,
    add_tokenizer_options,
    check_exists,
    check_tokenizer,
    open_device,
    open_precision,
    open_tokenizer,
)
from smalti.cli.outputs import plan_outputs, process_files
from smalti.cli.parser import CommandParser
from smalti.errors import SmaltiError

if TYPE_CHECKING:
    from smalti.cli.outputs import FileKind
    from smalti.cli.progress import ProgressDisplay

_EXAMPLES = (
    "smalti detokenize photo.safetensors --out photo.png",
    "smalti detokenize tokens --out decoded --tokenizer my-tokenizer",
)


def run(name: str, arguments: list[str]) -> int:
    """Decode each token file. Videos get their original frame rate.

    Raises:
        SmaltiError: an option is invalid, a file cannot be read or written, or a file was made by another tokenizer.
    """
    parser = CommandParser(
        name,
        "Convert a token file, or every token file in a folder, to an image or a video. Videos get their original frame "
        "rate.",
        _EXAMPLES,
    )
    add_file_options(parser, "token file, or folder of token files", MEDIA_OUTPUT_HELP)
    add_tokenizer_options(
        parser, seed=True, fallback="the tokenizer recorded in the token file", bfloat16=BFLOAT16_DECODER_HELP
    )
    options = parser.parse(arguments)
    check_exists(options.input, "token file or folder")
    if options.tokenizer is not None:
        check_tokenizer(options.tokenizer)

    import torch

    from smalti.cli.media_streams import decode_tokens, describe, with_progress, write_media
    from smalti.export.token_files import load_tokens
    from smalti.folders import find_files
    from smalti.tokenizers.checkpoints import fingerprint

    files = find_files(options.input, {".safetensors"}) if options.input.is_dir() else [options.input]
    if not files:
        raise SmaltiError(f"The folder {options.input} contains no token files (.safetensors).")
    pairs = plan_outputs(options.input, files, options.out, _result_kind(len(files)), overwrite=options.overwrite)
    tokenizer_path = options.tokenizer or _find_tokenizer(files)
    device = open_device(options.device)
    tokenizer = open_tokenizer(tokenizer_path, device, tile=options.tile)
    expected_fingerprint = fingerprint(tokenizer_path)

    @open_precision(options.precision, device)
    @torch.inference_mode()
    def detokenize(file: Path, result: Path, progress: ProgressDisplay) -> str:
        content = load_tokens(file)
        if content.fingerprint != expected_fingerprint:
            raise SmaltiError(
                f"{file} was made by another tokenizer ({content.tokenizer}, {content.fingerprint[:12]}) than "
                f"{tokenizer_path} ({expected_fingerprint[:12]}): pass the one that made it with --tokenizer."
            )
        samples = len(content.tokens.ids)
        if samples != 1:
            raise SmaltiError(
                f"{file} contains {samples} samples, but this command decodes files with one sample: use "
                "Tokenizer.detokenize in Python."
            )
        latents = with_progress(decode_tokens(tokenizer, content), file.name, progress)
        layout = write_media(tokenizer, latents, content.rate, result, options.seed)
        return describe(tokenizer, layout, content.rate)

    process_files(pairs, "Detokenizing", detokenize, options.out)
    return 0


def _result_kind(files: int) -> Callable[[Path], FileKind]:
    """Return a function from a token file to the kind of its result, image or video.

    Args:
        files: number of token files. If there are several, the function does not raise an error for an unreadable file,
            because `process_files` reports it later.
    """
    from smalti.cli.media_streams import IMAGE, VIDEO
    from smalti.export.token_files import is_clip

    def kind(file: Path) -> FileKind:
        try:
            return VIDEO if is_clip(file) else IMAGE
        except SmaltiError:
            if files == 1:
                raise
            return IMAGE

    return kind


def _find_tokenizer(files: list[Path]) -> Path:
    """Return the path of the tokenizer that is recorded in the first readable token file.

    Raises:
        SmaltiError: no file is readable, or the tokenizer is not at this path.
    """
    from smalti.export.token_files import load_tokens

    def recorded(file: Path) -> Path:
        return file.parent / load_tokens(file).tokenizer

    for file in files[:-1]:
        try:
            path = recorded(file)
            break
        except SmaltiError:
            continue  # `process_files` reports it
    else:
        path = recorded(files[-1])
    if not path.exists():
        raise SmaltiError(f"The tokenizer that made these tokens is not at {path}: pass its path with --tokenizer.")
    return path
