"""`smalti tokenize`: convert images and videos to token files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from smalti.cli.options import (
    MEDIA_INPUT_HELP,
    VIDEO_NOTES,
    add_file_options,
    add_rate_option,
    add_tokenizer_options,
    open_device,
    open_tokenizer,
)
from smalti.cli.outputs import plan_outputs, process_files

if TYPE_CHECKING:
    from rich.progress import Progress


def run(name: str, arguments: list[str]) -> int:
    """Write the tokens of each file, with the frame rate and the fingerprint of the tokenizer.

    Raises:
        SmaltiError: an option is invalid, or a file cannot be read or written.
    """
    parser = argparse.ArgumentParser(
        f"smalti {name}",
        description="Convert an image or a video, or every image and video in a folder, to token files.",
        epilog=VIDEO_NOTES,
    )
    add_file_options(
        parser, MEDIA_INPUT_HELP, "token file (.safetensors) to write; for an input folder, the folder to write to"
    )
    add_tokenizer_options(parser)
    add_rate_option(parser)
    options = parser.parse_args(arguments)

    import torch

    from smalti.cli.media_streams import TOKENS, describe, encode_file, find_media, with_progress
    from smalti.export.token_files import TokenFile, save_tokens
    from smalti.tokenizers.checkpoints import fingerprint
    from smalti.tokenizers.tokenizer import get_tokens
    from smalti.types import TokenGrid

    files = find_media(options.input)
    pairs = plan_outputs(options.input, files, options.out, lambda _: TOKENS, overwrite=options.overwrite)
    tokenizer = open_tokenizer(options.tokenizer, open_device(options.device), tile=options.tile)
    tokenizer_path, tokenizer_fingerprint = str(options.tokenizer.resolve()), fingerprint(options.tokenizer)
    codebook_size = tokenizer.quantizer.codebook_size

    @torch.inference_mode()
    def tokenize(file: Path, result: Path, progress: Progress) -> None:
        stream = encode_file(tokenizer, file, options.rate)
        parts = with_progress(stream, file.name, progress)
        tokens = TokenGrid.join_time(get_tokens(part).to("cpu") for part in parts)
        save_tokens(result, TokenFile(tokens, tokenizer_path, tokenizer_fingerprint, stream.rate), codebook_size)
        if len(pairs) == 1:
            print(f"{result}: {describe(tokenizer, tokens, stream.rate)}")

    process_files(pairs, "Tokenizing", tokenize)
    return 0
