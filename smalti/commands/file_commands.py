"""`smalti tokenize`, `detokenize` and `reconstruct`: images and videos through a tokenizer, by files or by folders."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from smalti.cli.options import add_files, add_path, add_tokenizer, open_device, open_tokenizer
from smalti.cli.outputs import plan_outputs, process_each
from smalti.errors import SmaltiError

if TYPE_CHECKING:
    from rich.progress import Progress

    from smalti.cli.outputs import FileKind


_MEDIA = "an image, a video, or a folder of both"
_RESULTS = "the image (.png) or the video (.mp4) to write, or a folder for a folder"
_VIDEOS = (
    "Videos are read and written as they come, so that their length does not matter. Every frame is taken once, and the "
    "frame rate is the file's, on average: with --rate, frames are taken by their timestamps, which keeps the pace of a "
    "video whose rate varies. Videos are written as H.264, whose sizes are even: the last row or column of an odd one is "
    "there twice. Sound is left out."
)


def run(name: str, arguments: list[str]) -> int:
    """Run the command of that name."""
    return {"tokenize": _tokenize, "detokenize": _detokenize, "reconstruct": _reconstruct}[name](arguments)


def _tokenize(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "smalti tokenize",
        description="Write the tokens of an image or a video, or of a folder of them.",
        epilog=_VIDEOS,
    )
    add_files(parser, _MEDIA, "the .safetensors file to write, or a folder for a folder")
    add_tokenizer(parser)
    _add_rate(parser)
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
    identity, codes = fingerprint(options.tokenizer), tokenizer.quantizer.codebook_size

    @torch.inference_mode()
    def work(file: Path, target: Path, progress: Progress) -> None:
        stream = encode_file(tokenizer, file, options.rate)
        parts = with_progress(stream, file.name, progress)
        tokens = TokenGrid.join_time(get_tokens(part).to("cpu") for part in parts)
        save_tokens(target, TokenFile(tokens, str(options.tokenizer.resolve()), identity, stream.rate), codes)
        if len(pairs) == 1:
            print(f"{target}: {describe(tokenizer, tokens, stream.rate)}")

    process_each(pairs, "Tokenizing", work)
    return 0


def _detokenize(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "smalti detokenize",
        description="Write the image or the video of a token file, a video at its frame rate; or those of a folder.",
    )
    add_files(parser, "a token file, or a folder of them", _RESULTS)
    add_tokenizer(parser, fallback="the tokenizer that the file names; else ")
    _add_seed(parser)
    options = parser.parse_args(arguments)

    import torch

    from smalti.cli.media_streams import decode_tokens, describe, with_progress, write_media
    from smalti.data.folders import find_files
    from smalti.export.token_files import load_tokens
    from smalti.tokenizers.checkpoints import fingerprint

    files = find_files(options.input, {".safetensors"}) if options.input.is_dir() else [options.input]
    if not files:
        raise SmaltiError(f"{options.input} holds no token files (.safetensors).")
    pairs = plan_outputs(options.input, files, options.out, _result_kind(len(files)), overwrite=options.overwrite)
    path = options.tokenizer or _named_tokenizer(files)
    tokenizer, identity = open_tokenizer(path, open_device(options.device), tile=options.tile), fingerprint(path)

    @torch.inference_mode()
    def work(file: Path, target: Path, progress: Progress) -> None:
        content = load_tokens(file)
        if content.fingerprint != identity:
            raise SmaltiError(
                f"{file} was made by another tokenizer ({content.tokenizer}, {content.fingerprint[:12]}) than {path} "
                f"({identity[:12]}): pass the one that made it with --tokenizer."
            )
        if len(content.tokens.ids) != 1:
            raise SmaltiError(
                f"{file} holds {len(content.tokens.ids)} samples, and this command writes one a file: decode it with "
                "Tokenizer.detokenize."
            )
        latents = with_progress(decode_tokens(tokenizer, content), file.name, progress)
        layout = write_media(tokenizer, latents, content.rate, target, options.seed)
        if len(pairs) == 1:
            print(f"{target}: {describe(tokenizer, layout, content.rate)}")

    process_each(pairs, "Detokenizing", work)
    return 0


def _result_kind(count: int) -> Callable[[Path], FileKind]:
    """What comes out of a token file; of one among several that cannot be read, `each` tells later."""
    from smalti.cli.media_streams import IMAGE, VIDEO
    from smalti.export.token_files import holds_clip

    def kind(file: Path) -> FileKind:
        try:
            return VIDEO if holds_clip(file) else IMAGE
        except SmaltiError:
            if count == 1:
                raise
            return IMAGE

    return kind


def _named_tokenizer(files: list[Path]) -> Path:
    """The tokenizer that the first token file that can be read names."""
    from smalti.export.token_files import load_tokens

    for file in files[:-1]:
        try:
            return Path(load_tokens(file).tokenizer)
        except SmaltiError:
            continue  # `each` tells of it
    return Path(load_tokens(files[-1]).tokenizer)


def _reconstruct(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "smalti reconstruct",
        description="Write what a tokenizer makes of an image or a video, or of a folder of them.",
        epilog=_VIDEOS,
    )
    add_files(parser, _MEDIA, _RESULTS)
    add_tokenizer(parser)
    add_path(parser)
    _add_rate(parser)
    _add_seed(parser)
    options = parser.parse_args(arguments)

    import torch

    from smalti.cli.media_streams import describe, encode_file, find_media, kind_of, with_progress, write_media

    pairs = plan_outputs(options.input, find_media(options.input), options.out, kind_of, overwrite=options.overwrite)
    tokenizer = open_tokenizer(options.tokenizer, open_device(options.device), options.path, options.tile)

    @torch.inference_mode()
    def work(file: Path, target: Path, progress: Progress) -> None:
        stream = encode_file(tokenizer, file, options.rate)
        layout = write_media(tokenizer, with_progress(stream, file.name, progress), stream.rate, target, options.seed)
        if len(pairs) == 1:
            print(f"{target}: {describe(tokenizer, layout, stream.rate)}")

    process_each(pairs, "Reconstructing", work)
    return 0


def _add_rate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rate",
        type=_rate,
        help="frames a second to take of a video, by their timestamps: 12.5, 30000/1001 (every frame)",
    )


def _rate(text: str) -> Fraction:
    from smalti.video import as_rate

    try:
        return as_rate(Fraction(text))
    except (ValueError, ZeroDivisionError):
        raise SmaltiError(f"--rate is '{text}': give frames a second, such as 12.5 or 30000/1001.") from None


def _add_seed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seed", type=int, default=0, help="decides the noise of a generative decoder, for every file alike"
    )
