"""`smalti reconstruct`: encode and decode images and videos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from smalti.cli.options import (
    BFLOAT16_DECODER_HELP,
    MEDIA_INPUT_HELP,
    MEDIA_OUTPUT_HELP,
    VIDEO_NOTES,
    add_file_options,
    add_tokenizer_options,
    add_video_options,
    check_tokenizer,
    open_device,
    open_precision,
    open_tokenizer,
)
from smalti.cli.outputs import plan_outputs, process_files
from smalti.cli.parser import CommandParser

if TYPE_CHECKING:
    from smalti.cli.progress import ProgressDisplay

_EXAMPLES = (
    "smalti reconstruct photo.jpg --out reconstruction.png --tokenizer my-tokenizer",
    "smalti reconstruct my/photos --out reconstructions --tokenizer runs/version_0/checkpoints/last.ckpt",
    "smalti reconstruct clip.mp4 --out scene.mp4 --tokenizer my-video-tokenizer --start 61.5 --stop 64",
)


def run(name: str, arguments: list[str]) -> int:
    """Write the reconstruction of each file.

    Raises:
        SmaltiError: an option is invalid, or a file cannot be read or written.
    """
    parser = CommandParser(
        name,
        "Encode and decode an image or a video, or every image and video in a folder, and write the reconstructions.",
        _EXAMPLES,
        VIDEO_NOTES,
    )
    add_file_options(parser, MEDIA_INPUT_HELP, MEDIA_OUTPUT_HELP)
    add_tokenizer_options(parser, branch=True, seed=True, bfloat16=BFLOAT16_DECODER_HELP)
    add_video_options(parser)
    options = parser.parse(arguments)
    tokenizer_file = check_tokenizer(options.tokenizer)

    import torch

    from smalti.cli.media_streams import (
        TimeRange,
        describe,
        encode_file,
        find_media,
        media_kind,
        with_progress,
        without_autocast,
        write_media,
    )

    part = TimeRange(options.start, options.stop)
    files = find_media(options.input)
    pairs = plan_outputs(options.input, files, options.out, media_kind, overwrite=options.overwrite)
    device = open_device(options.device)
    tokenizer = open_tokenizer(tokenizer_file, device, options.branch, options.tile)

    @open_precision(options.precision, device)
    @torch.inference_mode()
    def reconstruct(file: Path, result: Path, progress: ProgressDisplay) -> str:
        stream = encode_file(tokenizer, file, options.rate, part)
        latents = without_autocast(with_progress(stream, file.name, progress), device)
        layout = write_media(tokenizer, latents, stream.rate, result, options.seed)
        return describe(tokenizer, layout, stream.rate)

    process_files(pairs, "Reconstructing", reconstruct, options.out)
    return 0
