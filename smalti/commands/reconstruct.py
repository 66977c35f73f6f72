"""`smalti reconstruct`: encode and decode images and videos."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from smalti.cli.options import (
    MEDIA_INPUT_HELP,
    MEDIA_OUTPUT_HELP,
    VIDEO_NOTES,
    add_branch_option,
    add_file_options,
    add_rate_option,
    add_seed_option,
    add_tokenizer_options,
    open_device,
    open_tokenizer,
)
from smalti.cli.outputs import plan_outputs, process_files

if TYPE_CHECKING:
    from rich.progress import Progress


def run(name: str, arguments: list[str]) -> int:
    """Write the reconstruction of each file.

    Raises:
        SmaltiError: an option is invalid, or a file cannot be read or written.
    """
    parser = argparse.ArgumentParser(
        f"smalti {name}",
        description="Encode and decode an image or a video, or every image and video in a folder, and write the "
        "reconstructions.",
        epilog=VIDEO_NOTES,
    )
    add_file_options(parser, MEDIA_INPUT_HELP, MEDIA_OUTPUT_HELP)
    add_tokenizer_options(parser)
    add_branch_option(parser)
    add_rate_option(parser)
    add_seed_option(parser)
    options = parser.parse_args(arguments)

    import torch

    from smalti.cli.media_streams import describe, encode_file, find_media, media_kind, with_progress, write_media

    files = find_media(options.input)
    pairs = plan_outputs(options.input, files, options.out, media_kind, overwrite=options.overwrite)
    tokenizer = open_tokenizer(options.tokenizer, open_device(options.device), options.branch, options.tile)

    @torch.inference_mode()
    def reconstruct(file: Path, result: Path, progress: Progress) -> None:
        stream = encode_file(tokenizer, file, options.rate)
        latents = with_progress(stream, file.name, progress)
        layout = write_media(tokenizer, latents, stream.rate, result, options.seed)
        if len(pairs) == 1:
            print(f"{result}: {describe(tokenizer, layout, stream.rate)}")

    process_files(pairs, "Reconstructing", reconstruct)
    return 0
