"""Command-line options that several commands share, and opening the tokenizer and the device that they select.

The functions import torch when they need it: the help of a command appears without this delay.
"""

from __future__ import annotations

import argparse
import os
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from smalti.cli.parser import whole_number
from smalti.errors import SmaltiError

if TYPE_CHECKING:
    import torch

    from smalti.data import Source
    from smalti.tokenizers.tokenizer import Tokenizer


TOKENIZER_VARIABLE = "SMALTI_TOKENIZER"
"""Environment variable that sets the default of `--tokenizer`."""

TOKENIZER_HELP = "exported folder, .ckpt file, or diffusers:FOLDER or diffusers:HUB_ID"
MEDIA_INPUT_HELP = "image, video, or folder of images and videos"
BFLOAT16_DECODER_HELP = "in the decoder, which is faster where the hardware computes it and changes pixels slightly"
"""What `--precision bfloat16` means for commands that decode. Encoders keep float32: bfloat16 would change ids."""

MEDIA_OUTPUT_HELP = "image (.png) or video (.mp4) to write; for an input folder, the folder to write to"
VIDEO_NOTES = (
    "Videos are processed chunk by chunk: memory does not depend on their length. By default, every frame is used once, "
    "and the frame rate is the average frame rate of the file. With --rate, frames are sampled by their timestamps, which "
    "preserves the speed of videos with a variable frame rate. Videos are written as H.264, which requires an even height "
    "and width: the last row or column of an odd size is repeated. Audio is dropped."
)


def add_file_options(parser: argparse.ArgumentParser, input_help: str, output_help: str) -> None:
    """Add the input argument, `--out` and `--overwrite`."""
    parser.add_argument("input", type=Path, help=input_help)
    add_output_options(parser, output_help, "replace existing files")


def add_output_options(parser: argparse.ArgumentParser, output_help: str, overwrite_help: str) -> None:
    """Add `--out` and `--overwrite`."""
    group = parser.add_argument_group("output")
    group.add_argument("--out", "-o", type=Path, required=True, metavar="PATH", help=output_help)
    group.add_argument("--overwrite", action="store_true", help=overwrite_help)


def add_tokenizer_options(
    parser: argparse.ArgumentParser,
    *,
    branch: bool = False,
    seed: bool = False,
    fallback: str = "",
    bfloat16: str = "",
) -> None:
    """Add `--tokenizer`, `--device` and `--tile`.

    Args:
        parser: the parser of the command.
        branch: whether to add `--as`. See `add_branch_option`.
        seed: whether to add `--seed`.
        fallback: what the command uses if neither the option nor the environment variable is set, for the help text.
        bfloat16: where bfloat16 is used and what it changes, for the help text of `--precision` (see `open_precision`);
            empty: the command has no such option.
    """
    group = parser.add_argument_group("tokenizer")
    default = f"the environment variable {TOKENIZER_VARIABLE}" + (f", else {fallback}" if fallback else "")
    group.add_argument(
        "--tokenizer",
        type=Path,
        metavar="PATH",
        default=Path(os.environ[TOKENIZER_VARIABLE]) if os.environ.get(TOKENIZER_VARIABLE) else None,
        help=f"{TOKENIZER_HELP} (default: {default})",
    )
    if branch:
        add_branch_option(group)
    if seed:
        group.add_argument(
            "--seed",
            type=whole_number(0),
            default=0,
            help="seed for the noise of a generative decoder (default: %(default)s)",
        )
    group.add_argument(
        "--device",
        default="auto",
        help="cpu, cuda, cuda:1 or mps; auto uses a GPU if one is available (default: %(default)s)",
    )
    group.add_argument(
        "--tile",
        type=whole_number(1),
        metavar="SIZE",
        help="process overlapping tiles of this height and width in pixels, a multiple of the tokenizer's stride, if whole "
        "frames do not fit into memory (default: whole frames)",
    )
    if bfloat16:
        group.add_argument(
            "--precision",
            choices=("float32", "bfloat16"),
            default="float32",
            help="precision of the network: float32 (or that of its weights), or bfloat16 "
            f"{bfloat16} (default: %(default)s)",
        )


def open_precision(precision: str, device: torch.device) -> torch.autocast:
    """Return the context in which a network computes with a `--precision`. It is also a decorator."""
    import torch

    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def add_branch_option(parser: argparse._ActionsContainer, default: str = "discrete") -> None:
    """Add `--as`, stored as `branch`, for the argument of `open_tokenizer`.

    Args:
        parser: the parser of the command, or a group of its options.
        default: what the command uses without the option, for the help text.
    """
    parser.add_argument(
        "--as",
        dest="branch",
        choices=("discrete", "continuous"),
        help=f"branch of a joint tokenizer to use (default: {default})",
    )


def add_video_options(parser: argparse.ArgumentParser) -> None:
    """Add `--rate`, `--start` and `--stop`, parsed to a `Fraction` each; None by default.

    `parse_args` raises a SmaltiError for an invalid frame rate or time.
    """
    group = parser.add_argument_group("videos")
    group.add_argument(
        "--rate",
        type=parse_rate,
        metavar="FPS",
        help="frame rate at which videos are sampled, in frames per second, such as 12.5 or 30000/1001 (default: every "
        "frame is used once)",
    )
    group.add_argument(
        "--start", type=_parse_time, metavar="SECONDS", help="time of the first frame (default: the start of the video)"
    )
    group.add_argument(
        "--stop",
        type=_parse_time,
        metavar="SECONDS",
        help="time before which the last frame is displayed (default: the end of the video)",
    )


def check_tokenizer(path: Path | None) -> Path:
    """Return the path of a tokenizer, if there is one. This is quick, and does not import torch.

    Raises:
        SmaltiError: the path is None, does not exist, or is a folder without an exported tokenizer.
    """
    if path is None:
        raise SmaltiError(
            f"No tokenizer is given: pass --tokenizer PATH ({TOKENIZER_HELP}), or set {TOKENIZER_VARIABLE}."
        )
    if is_diffusers(path):
        return path
    check_exists(path, "tokenizer")
    if path.is_dir() and not (path / "config.json").exists():
        checkpoints = sorted(path.rglob("*.ckpt"), key=lambda file: (file.name != "last.ckpt", -file.stat().st_mtime))
        advice = f"pass the checkpoint, such as {checkpoints[0]}" if checkpoints else f"pass an {TOKENIZER_HELP}"
        raise SmaltiError(f"The folder {path} is not an exported tokenizer: {advice}.")
    return path


def is_diffusers(path: Path) -> bool:
    """Return whether a path names an autoencoder of diffusers, as `smalti.load` does. This does not import torch."""
    return str(path).startswith("diffusers:")


def check_channels(tokenizer: Tokenizer, source: Source) -> None:
    """Check that data have the channels of a tokenizer.

    Raises:
        SmaltiError: they have others.
    """
    from smalti.channel_groups import RGB, describe_groups

    channels = getattr(source, "channels", RGB)
    if tokenizer.channels != channels:
        raise SmaltiError(
            f"The tokenizer has the channels {describe_groups(tokenizer.channels)}, but {source} has "
            f"{describe_groups(channels)}: fine-tune it for these with `smalti finetune`."
        )


def check_exists(path: Path, kind: str) -> None:
    """Check that an input exists.

    Args:
        path: the file or folder.
        kind: what it should be, such as "image".

    Raises:
        SmaltiError: it does not exist, or is a folder that may not be read. The message names the part of the path that
            is wrong.
    """
    if path.is_dir() and not os.access(path, os.R_OK | os.X_OK):
        raise SmaltiError(f"You have no permission to read the folder {path}: check its permissions.")
    if path.exists():
        return
    wrong = next((parent for parent in reversed(path.parents) if not parent.exists()), None)
    reason = f" (there is no folder {wrong})" if wrong else ""
    raise SmaltiError(f"There is no {kind} at {path}{reason}: check the path.")


def open_device(name: str) -> torch.device:
    """Return a device by name; "auto" selects a GPU if one is available, else the CPU.

    Raises:
        SmaltiError: this machine has no such device.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise SmaltiError(
            f"The device '{name}' is not available on this machine ({reason}): choose another --device, such as cpu."
        ) from error


def open_tokenizer(file: Path, device: torch.device, branch: str | None = None, tile: int | None = None) -> Tokenizer:
    """Load a tokenizer according to the options. See `smalti.tokenizers.opening.open_tokenizer`."""
    from smalti.tokenizers import opening

    return opening.open_tokenizer(file, device, branch, tile)


def parse_rate(text: str) -> Fraction:
    """Parse a frame rate.

    Raises:
        SmaltiError: the text is not a positive number or fraction.
    """
    from smalti.video import normalize_frame_rate

    try:
        return normalize_frame_rate(Fraction(text))
    except (ValueError, ZeroDivisionError):
        raise SmaltiError(f"--rate is '{text}': give frames per second, such as 12.5 or 30000/1001.") from None


def _parse_time(text: str) -> Fraction:
    """Parse a time in seconds.

    Raises:
        SmaltiError: the text is not a number of at least 0.
    """
    try:
        seconds = Fraction(text)
    except (ValueError, ZeroDivisionError):
        seconds = Fraction(-1)
    if seconds < 0:
        raise SmaltiError(f"'{text}' is not a time: give seconds from the start of the video, such as 12.5.")
    return seconds
