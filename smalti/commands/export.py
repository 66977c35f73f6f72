"""`smalti export`: convert a training checkpoint to a folder to load, share and publish, for Smalti or another library."""

from __future__ import annotations

import argparse
from pathlib import Path

from smalti.cli.options import add_branch_option, open_tokenizer


def run(name: str, arguments: list[str]) -> int:
    """Export the averaged weights of a checkpoint and print the files that were written.

    Raises:
        SmaltiError: the checkpoint cannot be loaded, the format cannot represent the tokenizer, or the folder cannot be
            written.
    """
    parser = argparse.ArgumentParser(
        f"smalti {name}",
        description="Write the tokenizer of a checkpoint (its averaged weights) to a folder, for Smalti "
        "(model.safetensors, config.json and a model card) or for another library.",
    )
    parser.add_argument("checkpoint", type=Path, help=".ckpt file of `smalti fit`, or an exported folder")
    parser.add_argument("--out", "-o", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--format",
        choices=("smalti", "diffusers"),
        default="smalti",
        help="library that loads the folder: smalti, or diffusers as an AutoencoderKLLTXVideo or AutoencoderKLWan "
        "(default: %(default)s)",
    )
    parser.add_argument("--overwrite", action="store_true", help="overwrite an existing export of the same format")
    add_branch_option(parser)
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


def print_files(folder: Path) -> None:
    """Print the files of a folder and their sizes."""
    for file in sorted(folder.iterdir()):
        print(f"{file}  ({file.stat().st_size / 2**20:.2f} MiB)")
