"""`smalti tokenize`: convert images and videos to token files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from smalti.cli.options import (
    MEDIA_INPUT_HELP,
    VIDEO_NOTES,
    add_file_options,
    add_rate_option,
    add_tokenizer_options,
    check_tokenizer,
    open_device,
    open_tokenizer,
)
from smalti.cli.outputs import plan_outputs, print_next, process_files
from smalti.cli.parser import CommandParser

if TYPE_CHECKING:
    from smalti.cli.progress import ProgressDisplay

_EXAMPLES = (
    "smalti tokenize photo.jpg --out photo.safetensors --tokenizer my-tokenizer",
    "smalti tokenize my/photos --out tokens --tokenizer my-tokenizer",
    "smalti tokenize clip.mp4 --out clip.safetensors --tokenizer my-video-tokenizer --rate 24",
)


def run(name: str, arguments: list[str]) -> int:
    """Write the tokens of each file, with the frame rate and the fingerprint of the tokenizer.

    Raises:
        SmaltiError: an option is invalid, or a file cannot be read or written.
    """
    parser = CommandParser(
        name,
        "Convert an image or a video, or every image and video in a folder, to token files.",
        _EXAMPLES,
        VIDEO_NOTES,
    )
    add_file_options(
        parser, MEDIA_INPUT_HELP, "token file (.safetensors) to write; for an input folder, the folder to write to"
    )
    add_tokenizer_options(parser)
    add_rate_option(parser)
    options = parser.parse(arguments)
    tokenizer_file = check_tokenizer(options.tokenizer)

    import torch

    from smalti.cli.media_streams import TOKENS, describe, encode_file, find_media, media_kind, with_progress
    from smalti.export.token_files import TokenFile, portable_path, save_tokens
    from smalti.tokenizers.checkpoints import fingerprint
    from smalti.tokenizers.tokenizer import get_tokens
    from smalti.types import TokenGrid

    files = find_media(options.input)
    pairs = plan_outputs(options.input, files, options.out, lambda _: TOKENS, overwrite=options.overwrite)
    tokenizer = open_tokenizer(tokenizer_file, open_device(options.device), tile=options.tile)
    tokenizer_fingerprint = fingerprint(tokenizer_file)
    codebook_size = tokenizer.quantizer.codebook_size

    @torch.inference_mode()
    def tokenize(file: Path, result: Path, progress: ProgressDisplay) -> str:
        stream = encode_file(tokenizer, file, options.rate)
        parts = with_progress(stream, file.name, progress)
        tokens = TokenGrid.join_time(get_tokens(part).to("cpu") for part in parts)
        recorded = portable_path(tokenizer_file, result.parent)
        save_tokens(result, TokenFile(tokens, recorded, tokenizer_fingerprint, stream.rate), codebook_size)
        return describe(tokenizer, tokens, stream.rate)

    process_files(pairs, "Tokenizing", tokenize, options.out)
    folder = pairs[0][1].parent
    is_recorded = (folder / portable_path(tokenizer_file, folder)).exists()
    option = [] if is_recorded else ["--tokenizer", tokenizer_file]
    if options.input.is_dir():
        print_next("To decode them", "detokenize", options.out, "--out", "decoded", *option)
    else:
        ((file, result),) = pairs
        print_next("To decode it", "detokenize", result, "--out", f"decoded{media_kind(file).suffix}", *option)
    return 0
