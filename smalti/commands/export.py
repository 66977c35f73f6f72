"""`smalti export`: convert a training checkpoint to a folder that Smalti or another library loads."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smalti.cli.options import add_branch_option, add_output_options, check_tokenizer, open_tokenizer
from smalti.cli.outputs import print_example, print_files, print_next
from smalti.cli.parser import CommandParser
from smalti.cli.rivals import find_linear_codec
from smalti.errors import SmaltiError
from smalti.files import atomic_write

if TYPE_CHECKING:
    from smalti.tokenizers.tokenizer import Tokenizer

_EXAMPLES = (
    "smalti export runs/version_0/checkpoints/last.ckpt --out my-tokenizer",
    "smalti export my-video-tokenizer --out my-diffusers-folder --format diffusers --as continuous",
    "smalti export my-tokenizer --out my-programs --format onnx",
)


def run(name: str, arguments: list[str]) -> int:
    """Export the averaged weights of a checkpoint and print the files that were written.

    Raises:
        SmaltiError: the checkpoint cannot be loaded, the format cannot represent the tokenizer, or the folder cannot be
            written.
    """
    parser = CommandParser(
        name,
        "Convert the tokenizer in a checkpoint (its averaged weights, if any) to a folder for smalti.load "
        "(model.safetensors, config.json and a model card; linear_codec.safetensors if the run has one, for `smalti "
        "evaluate`) or for another library.",
        _EXAMPLES,
    )
    parser.add_argument("checkpoint", type=Path, help=".ckpt file of `smalti fit`, or an exported folder")
    add_output_options(parser, "folder to write to", "replace an existing export of the same format")
    content = parser.add_argument_group("content")
    content.add_argument(
        "--format",
        choices=("smalti", "diffusers", "torch", "onnx"),
        default="smalti",
        help="what will load the folder; diffusers loads it as an AutoencoderKLLTXVideo or AutoencoderKLWan, or as the "
        "class from which the tokenizer was loaded. torch and onnx add an encoder and a decoder as programs of "
        "torch.export or ONNX, with golden vectors; both can be in one folder (default: %(default)s)",
    )
    content.add_argument(
        "--compile",
        action="store_true",
        help="with --format torch, also compile the programs with AOTInductor for this kind of machine",
    )
    add_branch_option(content, "both branches; for programs, the discrete one")
    options = parser.parse(arguments)
    if options.compile and options.format != "torch":
        raise SmaltiError("--compile needs --format torch: the other formats have nothing to compile.")
    checkpoint = check_tokenizer(options.checkpoint)

    import torch

    from smalti.export.diffusers import save_diffusers
    from smalti.tokenizers.checkpoints import provenance, save

    tokenizer = open_tokenizer(checkpoint, torch.device("cpu"), options.branch)
    origin = provenance(checkpoint) | ({"branch": options.branch} if options.branch else {})
    if options.format in ("torch", "onnx"):
        return _export_programs(tokenizer, options, origin)
    write = save_diffusers if options.format == "diffusers" else save
    write(tokenizer, options.out, provenance=origin, overwrite=options.overwrite)
    if options.format == "smalti":
        _copy_linear_codec(checkpoint, options.out)
    print_files(options.out)
    if options.format == "smalti":
        print_example(tokenizer, options.out)
    return 0


def _export_programs(tokenizer: Tokenizer, options: argparse.Namespace, origin: dict[str, Any]) -> int:
    """Write programs, print the files and what to run next."""
    from smalti.export.programs import save_programs

    save_programs(
        tokenizer,
        options.out,
        options.format,
        compiled=options.compile,
        provenance=origin,
        overwrite=options.overwrite,
    )
    print_files(options.out)
    print_next("To compare the programs with the tokenizer on real samples", "verify", options.out)
    return 0


def _copy_linear_codec(checkpoint: Path, out: Path) -> None:
    """Copy the linear codec of the run or folder into an export, and remove that of an earlier export if there is none."""
    from smalti.eval.linear_codec import CODEC_FILE

    source = find_linear_codec(checkpoint)
    if source is None:
        (out / CODEC_FILE).unlink(missing_ok=True)
        return
    content = source.read_bytes()
    with atomic_write(out / CODEC_FILE) as partial:
        partial.write_bytes(content)
