"""`smalti verify`: compare exported programs with their tokenizer on real photos and clips."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from smalti.cli.options import check_exists
from smalti.cli.parser import CommandParser, whole_number
from smalti.errors import SmaltiError

if TYPE_CHECKING:
    from torch import Tensor

    from smalti.export.programs.contract import Contract
    from smalti.export.programs.verify import Verification

_EXAMPLES = (
    "smalti verify my-programs",
    "smalti verify my-programs --data my/photos --samples 64 --size 256",
    "smalti verify my-video-programs --data photos:validation --data clips:validation",
)
_NOTES = (
    "The exit code is 0 if every program keeps the promise: ids are equal wherever their decision margin is at least 1e-5, "
    "and pixels differ by at most 1e-4. It is 1 if a program breaks it. Both cases write verification.json."
)


def run(name: str, arguments: list[str]) -> int:
    """Verify the programs in a folder, write `verification.json` and print a table.

    Raises:
        SmaltiError: an option is invalid, or the folder or the data cannot be read.
    """
    parser = CommandParser(
        name,
        "Compare the programs that `smalti export --format torch` and `--format onnx` wrote with the tokenizer, on real "
        "photos and clips, one by one and batched. Count the ids that differ, with their decision margins.",
        _EXAMPLES,
        _NOTES,
    )
    parser.add_argument("folder", type=Path, help="folder with programs")
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data",
        action="append",
        metavar="SOURCE",
        help="folder, image, video, shards, photos:validation or clips:validation, as for `smalti evaluate`; repeat the "
        "option for several sources (default: photos:validation and, for networks with a temporal stride, "
        "clips:validation)",
    )
    data.add_argument(
        "--samples",
        type=whole_number(1),
        default=8,
        metavar="N",
        help="images or clips per source (default: %(default)s)",
    )
    data.add_argument(
        "--size",
        type=whole_number(1),
        default=128,
        metavar="PIXELS",
        help="height and width, rounded up to a multiple of the stride (default: %(default)s)",
    )
    data.add_argument(
        "--batch-size",
        type=whole_number(1),
        default=4,
        metavar="N",
        help="samples per batch (default: %(default)s)",
    )
    options = parser.parse(arguments)
    check_exists(options.folder, "folder")

    from smalti.cli.progress import ProgressDisplay
    from smalti.export.programs.manifest import read_manifest
    from smalti.export.programs.verify import verify, write_verification

    contract, _ = read_manifest(options.folder)
    sources = options.data or ["photos:validation", *(["clips:validation"] if contract.stride[0] > 1 else [])]
    batches = [batch for source in sources for batch in _read_batches(source, contract, options)]
    with ProgressDisplay() as progress, progress.task("Verifying", len(batches), "batches") as update:
        result = verify(options.folder, batches, update)
    file = write_verification(result, options.folder, {"sources": sources})
    print_table(result)
    print(file)
    return 0 if result.passed else 1


def _read_batches(source_name: str, contract: Contract, options: argparse.Namespace) -> list[Tensor]:
    """Read samples of a source as batches (B, 3, T, H, W) of sizes that the programs accept.

    Raises:
        SmaltiError: the source cannot be read, or has other channels than the programs.
    """
    from smalti.channel_groups import RGB, describe_groups
    from smalti.data import EvaluationTransform, VideoEvaluationTransform, evaluation_loader, open_source

    source = open_source(source_name, any_channels=True)
    channels = getattr(source, "channels", RGB)
    if sum(channels.values()) != contract.channels:
        raise SmaltiError(
            f"The programs take {contract.channels} channels, but {source_name} has {describe_groups(channels)}: give data "
            "with the channels of the tokenizer, such as --data my/bands."
        )
    s, a, b = contract.stride
    multiple = max(a, b)
    size = -(-options.size // multiple) * multiple
    transform = (
        VideoEvaluationTransform(1 + 2 * s, None, resize=size, crop=size)
        if source.videos
        else EvaluationTransform(resize=size, crop=size)
    )
    batches, missing = [], options.samples
    for batch in evaluation_loader(source, transform, min(options.batch_size, options.samples), 0, 0, 1, 0.0):
        pixels = batch.pixels[:missing].float()
        batches.append(pixels if pixels.ndim == 5 else pixels.unsqueeze(2))
        missing -= len(pixels)
        if not missing:
            break
    if not batches:
        raise SmaltiError(f"{source_name} contains no samples: give another --data.")
    return batches


def print_table(result: Verification) -> None:
    """Print what differs, one row per program and mode."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    # Without lines between columns, every number is complete in a terminal of 80 characters.
    title = f"{result.samples} samples"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    discrete = any(difference.tokens for difference in result.rows.values())
    columns = ("tokens", "differ", "margin up to", "broken") if discrete else ("latents differ by",)
    for column in ("runtime", "mode", *columns, "pixels differ by", "promise"):
        text = column in ("runtime", "mode", "promise")
        table.add_column(column, no_wrap=text, justify="left" if text else "right", min_width=7)
    for (runtime, mode), difference in result.rows.items():
        margin = "-" if difference.largest_margin is None else f"{difference.largest_margin:.2g}"
        counts = (str(difference.tokens), str(difference.mismatches), margin, str(difference.broken))
        values = counts if discrete else (f"{difference.latents or 0:.2g}",)
        pixels = "-" if difference.pixels is None else f"{difference.pixels:.2g}"
        table.add_row(runtime, mode, *values, pixels, "kept" if difference.passed else "BROKEN")
    Console().print(table)
