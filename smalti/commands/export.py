"""`smalti export`: convert a training checkpoint to a folder that Smalti or another library loads."""

from __future__ import annotations

import argparse
from pathlib import Path

from smalti.cli.options import add_branch_option, open_tokenizer
from smalti.cli.outputs import print_files


def run(name: str, arguments: list[str]) -> int:
    """Export the averaged weights of a checkpoint and print the files that were written.

    Raises:
        SmaltiError: the checkpoint cannot be loaded, the format cannot represent the tokenizer, or the folder cannot be
            written.
    """
    parser = argparse.ArgumentParser(
        f"smalti {name}",
        description="Convert the tokenizer in a checkpoint (its averaged weights, if any) to a folder for smalti.load "
        "(model.safetensors, config.json and a model card) or for another library.",
    )
    parser.add_argument("checkpoint", type=Path, help=".ckpt file of `smalti fit`, or an exported folder")
    parser.add_argument("--out", "-o", type=Path, required=True, help="folder to write to")
    parser.add_argument(
        "--format",
        choices=("smalti", "diffusers"),
        default="smalti",
        help="library that will load the folder; diffusers loads it as an AutoencoderKLLTXVideo or AutoencoderKLWan "
        "(default: %(default)s)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing export of the same format")
    add_branch_option(parser, "both branches")
    options = parser.parse_args(arguments)

    import torch

    from smalti.export.diffusers import save_diffusers
    from smalti.tokenizers.checkpoints import provenance, save

    tokenizer = open_tokenizer(options.checkpoint, torch.device("cpu"), options.branch)
    origin = provenance(options.checkpoint) | ({"branch": options.branch} if options.branch else {})
    write = save_diffusers if options.format == "diffusers" else save
    write(tokenizer, options.out, provenance=origin, overwrite=options.overwrite)
    print_files(options.out)
    return 0
