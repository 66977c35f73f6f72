"""`smalti export`: a training checkpoint to a folder that people load, share and publish, here or in another library."""

from __future__ import annotations

import argparse
from pathlib import Path

from smalti.cli.options import add_path, open_tokenizer


def run(name: str, arguments: list[str]) -> int:
    """Export a checkpoint's averaged weights; says where, and how large."""
    parser = argparse.ArgumentParser(
        f"smalti {name}",
        description="Write a checkpoint's tokenizer (its averaged weights) to a folder: model.safetensors, config.json and "
        "a card, or what another library loads.",
    )
    parser.add_argument("checkpoint", type=Path, help="a .ckpt file of `smalti fit`, or an exported folder")
    parser.add_argument("--out", "-o", type=Path, required=True, help="the folder to write")
    parser.add_argument(
        "--format",
        choices=("smalti", "diffusers"),
        default="smalti",
        help="what loads it: smalti, or diffusers' AutoencoderKLLTXVideo or AutoencoderKLWan (smalti)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an exported tokenizer of this format")
    add_path(parser)
    options = parser.parse_args(arguments)

    import torch

    from smalti.export.diffusers import save_diffusers
    from smalti.tokenizers.checkpoints import provenance, save

    tokenizer = open_tokenizer(options.checkpoint, torch.device("cpu"), options.path)
    origin = provenance(options.checkpoint) | ({"path": options.path} if options.path else {})
    write = save_diffusers if options.format == "diffusers" else save
    write(tokenizer, options.out, provenance=origin, overwrite=options.overwrite)
    report(options.out)
    return 0


def report(folder: Path) -> None:
    """Print what was written."""
    for file in sorted(folder.iterdir()):
        print(f"{file}  ({file.stat().st_size / 2**20:.2f} MiB)")
