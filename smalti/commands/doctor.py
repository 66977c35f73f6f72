"""`smalti doctor`: check the health of a checkpoint or an exported tokenizer."""

from __future__ import annotations

import argparse
from pathlib import Path

from smalti.cli.options import TOKENIZER_HELP, check_tokenizer, open_device
from smalti.cli.parser import CommandParser, whole_number

_EXAMPLES = (
    "smalti doctor runs/version_0/checkpoints/last.ckpt",
    "smalti doctor runs/version_0/checkpoints/last.ckpt --data my/photos",
    "smalti doctor my-tokenizer --data my/photos --linear-codec runs/version_0/linear_codec.safetensors",
)
_NOTES = (
    "The checks are those that training runs at each validation: whether the tokenizer is stuck at gray or below a linear "
    "codec; dead bits, levels, codewords or KL channels; saturated quantizers; color casts; a discriminator that has won "
    "or lost; losses that dominate. What only training can measure is taken from the checkpoint. The exit code is 0 if no "
    "problem is found, 1 if one is, 2 for bad input."
)


def run(name: str, arguments: list[str]) -> int:
    """Check a tokenizer and print the table.

    Returns:
        0 if no problem was found, else 1.

    Raises:
        SmaltiError: the tokenizer or the data cannot be read.
    """
    options = _parse(name, arguments)
    path = check_tokenizer(options.tokenizer)
    device = open_device(options.device)

    from smalti.cli.doctor_report import examine, print_report

    patient = examine(
        path,
        data=options.data,
        size=options.size,
        frames=options.frames,
        samples=options.samples,
        batch_size=options.batch_size,
        codec_file=options.linear_codec,
        device=device,
    )
    return print_report(patient)


def _parse(name: str, arguments: list[str]) -> argparse.Namespace:
    parser = CommandParser(
        name,
        "Check a training checkpoint or an exported tokenizer: what is wrong with it, how this shows in numbers, and what "
        "to try.",
        _EXAMPLES,
        _NOTES,
    )
    parser.add_argument("tokenizer", type=Path, metavar="CHECKPOINT", help=TOKENIZER_HELP)
    group = parser.add_argument_group("data")
    group.add_argument(
        "--data",
        metavar="SOURCE",
        help="images or videos to measure on, given as for `smalti evaluate` (default: the validation data of the run)",
    )
    group.add_argument(
        "--size",
        type=whole_number(1),
        metavar="PIXELS",
        help="height and width of the samples of --data (default: that of the run, else 256)",
    )
    group.add_argument(
        "--frames",
        type=whole_number(1),
        metavar="N",
        help="frames per clip of --data (default: that of the run, else 17)",
    )
    group.add_argument(
        "--samples",
        type=whole_number(1),
        default=256,
        metavar="N",
        help="maximum number of samples to measure on (default: %(default)s)",
    )
    group.add_argument(
        "--batch-size", type=whole_number(1), default=8, metavar="N", help="samples of --data per batch (default: 8)"
    )
    group.add_argument(
        "--linear-codec",
        type=Path,
        metavar="FILE",
        help="linear codec to compare with (default: linear_codec.safetensors in the folder of the run)",
    )
    group.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:1 or mps; auto uses a GPU if one is available (default: auto)"
    )
    return parser.parse(arguments)
