"""`smalti tokenize`: convert images and videos to token files."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from smalti.cli.data_options import CLIP_PROTOCOL_HELP, add_loading_options
from smalti.cli.options import (
    MEDIA_INPUT_HELP,
    VIDEO_NOTES,
    add_file_options,
    add_tokenizer_options,
    add_video_options,
    check_tokenizer,
    open_device,
    open_tokenizer,
)
from smalti.cli.outputs import plan_outputs, print_next, process_files
from smalti.cli.parser import CommandParser
from smalti.errors import SmaltiError

if TYPE_CHECKING:
    from smalti.cli.image_batches import FileBatches
    from smalti.cli.media_streams import TimeRange
    from smalti.cli.outputs import FileKind
    from smalti.cli.progress import ProgressDisplay
    from smalti.eval.protocols import Protocol
    from smalti.tokenizers.tokenizer import Tokenizer

_EXAMPLES = (
    "smalti tokenize photo.jpg --out photo.safetensors --tokenizer my-tokenizer",
    "smalti tokenize my/photos --out photos.safetensors --tokenizer my-tokenizer --protocol square256 --pack",
    "smalti tokenize clip.mp4 --out clip.safetensors --tokenizer my-video-tokenizer --rate 24 --start 2 --stop 4",
)
_NOTES = f"{VIDEO_NOTES} For training files of large datasets, see `smalti tokenize-dataset`."


def run(name: str, arguments: list[str]) -> int:
    """Write the tokens of each file, with the frame rate and the fingerprint of the tokenizer.

    Raises:
        SmaltiError: an option is invalid, or a file cannot be read or written.
    """
    options = _parse(name, arguments)
    tokenizer_file = check_tokenizer(options.tokenizer)

    import torch

    from smalti.cli.media_streams import TimeRange, describe, encode_file, find_media, media_kind, with_progress
    from smalti.cli.packing import PackedTokens
    from smalti.export.token_files import TokenFile, check_origin, portable_path, save_tokens
    from smalti.tokenizers.checkpoints import fingerprint
    from smalti.tokenizers.tokenizer import get_tokens
    from smalti.types import TokenGrid

    part, protocol = TimeRange(options.start, options.stop), _find_protocol(options)
    files = find_media(options.input)
    tokenizer_fingerprint = fingerprint(tokenizer_file)
    size = None if protocol is None or protocol.crop is None else (protocol.crop, protocol.crop)
    frames = None if protocol is None else protocol.frames
    pairs = _plan(options, files, lambda file: check_origin(file, tokenizer_fingerprint, size, frames))
    if not pairs:
        print(f"{options.out}: all {len(files)} files were tokenized before")
        return 0
    tokenizer = open_tokenizer(tokenizer_file, open_device(options.device), tile=options.tile)
    codebook_size = tokenizer.quantizer.codebook_size
    folder = (options.out if options.pack else pairs[0][1]).parent
    batches = _open_batches(options, tokenizer, [file for file, _ in pairs], protocol, part)
    packed = PackedTokens(options.out, portable_path(tokenizer_file, folder), tokenizer_fingerprint, codebook_size)

    @torch.inference_mode()
    def tokenize(file: Path, result: Path, progress: ProgressDisplay) -> str:
        part.check_video(file)
        if (reader := batches.get(media_kind(file).suffix)) is not None:
            tokens, rate = reader.tokenize(file)
        else:
            stream = encode_file(tokenizer, file, options.rate, part)
            parts = with_progress(stream, file.name, progress)
            tokens, rate = TokenGrid.join_time(get_tokens(latents).to("cpu") for latents in parts), stream.rate
        if options.pack:
            packed.add(file.relative_to(options.input).as_posix(), tokens, rate)
        else:
            recorded = portable_path(tokenizer_file, result.parent)
            save_tokens(result, TokenFile(tokens, recorded, tokenizer_fingerprint, rate), codebook_size)
        return describe(tokenizer, tokens, rate)

    process_files(pairs, "Tokenizing", tokenize, options.out, packed.save if options.pack else None)
    if options.pack:
        print(f'To read it in Python: ids = smalti.load_tokens("{options.out}")')
        return 0
    is_recorded = (folder / portable_path(tokenizer_file, folder)).exists()
    option = [] if is_recorded else ["--tokenizer", tokenizer_file]
    if options.input.is_dir():
        print_next("To decode them", "detokenize", options.out, "--out", "decoded", *option)
    else:
        ((file, result),) = pairs
        print_next("To decode it", "detokenize", result, "--out", f"decoded{media_kind(file).suffix}", *option)
    return 0


def _parse(name: str, arguments: list[str]) -> argparse.Namespace:
    parser = CommandParser(
        name,
        "Convert an image or a video, or every image and video in a folder, to token files.",
        _EXAMPLES,
        _NOTES,
    )
    add_file_options(
        parser, MEDIA_INPUT_HELP, "token file (.safetensors) to write; for an input folder, the folder to write to"
    )
    parser.add_argument_group("output").add_argument(
        "--pack", action="store_true", help="write the tokens of a folder to one file, --out; all need the same size"
    )
    parser.add_argument_group("output").add_argument(
        "--skip-existing", action="store_true", help="leave out files whose token files exist"
    )
    add_tokenizer_options(parser)
    add_video_options(parser)
    batches = parser.add_argument_group("preparation")
    batches.add_argument(
        "--protocol",
        metavar="NAME",
        help="resize and crop: square256 (shorter side 256, central 256 x 256), center256, resize256, ...; for the "
        f"first clip of each video, {CLIP_PROTOCOL_HELP} (default: original size)",
    )
    add_loading_options(
        batches,
        batch_size=1,
        workers=0,
        samples="images of one size per batch, or clips with --protocol",
        processes="processes that decode images",
    )
    options = parser.parse(arguments)
    if options.skip_existing and (options.overwrite or options.pack):
        other = "--overwrite" if options.overwrite else "--pack"
        raise SmaltiError(f"--skip-existing and {other} exclude each other: leave one of them out.")
    if options.pack and not options.input.is_dir():
        raise SmaltiError(f"--pack is for a folder of images or videos, and {options.input} is none: leave it out.")
    return options


def _plan(options: argparse.Namespace, files: list[Path], check: Callable[[Path], None]) -> list[tuple[Path, Path]]:
    """Return the pairs (file, result) that are left to do.

    Raises:
        SmaltiError: see `plan_outputs`; or a result that exists was made by another tokenizer or with another size.
    """
    from smalti.cli.media_streams import TOKENS
    from smalti.cli.packing import check_packed_file

    if options.pack:
        check_packed_file(options.out, overwrite=options.overwrite)
        return [(file, options.out) for file in files]
    overwrite = options.overwrite or options.skip_existing
    pairs = plan_outputs(options.input, files, options.out, lambda _: TOKENS, overwrite=overwrite)
    if not options.skip_existing:
        return pairs
    for _, result in pairs:
        if result.exists():
            check(result)
    return [(file, result) for file, result in pairs if not result.exists()]


def _find_protocol(options: argparse.Namespace) -> Protocol | None:
    """Return the protocol that `--protocol` names.

    Raises:
        SmaltiError: there is none, or it contradicts `--rate`.
    """
    from smalti.eval.protocols import get_protocol

    protocol = None if options.protocol is None else get_protocol(options.protocol)
    if protocol is not None and protocol.clips and options.rate is not None:
        raise SmaltiError(
            "--rate and a --protocol for clips exclude each other: state the rate in it, as in clip17@24."
        )
    return protocol


def _open_batches(
    options: argparse.Namespace, tokenizer: Tokenizer, files: list[Path], protocol: Protocol | None, part: TimeRange
) -> dict[str, FileBatches]:
    """Return the batches of images, and those of clips with a protocol, by the suffix of their kind.

    Raises:
        SmaltiError: a file is not of the kind that the protocol is for.
    """
    from fractions import Fraction

    from smalti.cli.image_batches import ClipReader, FileBatches, ImageReader
    from smalti.cli.media_streams import IMAGE, VIDEO, media_kind
    from smalti.data import VideoEvaluationTransform
    from smalti.tokenization.preprocessing import build_transform

    kinds = {kind: [file for file in files if media_kind(file) is kind] for kind in (IMAGE, VIDEO)}
    transform = None if protocol is None else build_transform(protocol)
    if protocol is not None and (others := kinds[IMAGE if protocol.clips else VIDEO]):
        kind, other = ("videos", "an image") if protocol.clips else ("images", "a video")
        raise SmaltiError(
            f"The protocol {protocol.name} is for {kind}, but {others[0]} is {other}: tokenize each kind alone."
        )
    if isinstance(transform, VideoEvaluationTransform):
        readers: dict[FileKind, ImageReader | ClipReader] = {
            VIDEO: ClipReader(transform, part.start or Fraction(0), part.stop)
        }
    else:
        readers = {IMAGE: ImageReader(transform)}
    return {
        kind.suffix: FileBatches(tokenizer, kinds[kind], reader, options.batch_size, options.workers)
        for kind, reader in readers.items()
        if kinds[kind]
    }
