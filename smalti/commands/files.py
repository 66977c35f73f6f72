"""`smalti tokenize`, `detokenize` and `reconstruct`: files through a tokenizer, one by one or by folders."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from smalti.commands.common import add_files, add_tokenizer, each, open_device, open_tokenizer, plan
from smalti.errors import SmaltiError
from smalti.files import whole

if TYPE_CHECKING:
    from torch import Tensor


def run(name: str, arguments: list[str]) -> int:
    """Run the command of that name."""
    return {"tokenize": _tokenize, "detokenize": _detokenize, "reconstruct": _reconstruct}[name](arguments)


def _tokenize(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "smalti tokenize", description="Write the tokens of an image, or of a folder of them."
    )
    add_files(parser, "an image, or a folder of images", "the .safetensors file to write, or a folder for a folder")
    add_tokenizer(parser)
    options = parser.parse_args(arguments)
    pairs = plan(options.input, _images(options.input), options.out, ".safetensors", overwrite=options.overwrite)

    import torch

    from smalti.export.tokens import TokenFile, save_tokens
    from smalti.tokenizers.checkpoints import fingerprint

    device = open_device(options.device)
    tokenizer = open_tokenizer(options.tokenizer, device)
    identity, codes = fingerprint(options.tokenizer), tokenizer.quantizer.codebook_size

    @torch.inference_mode()
    def work(file: Path, target: Path) -> None:
        tokens = tokenizer.tokenize(_read(file).to(device))
        save_tokens(target, TokenFile(tokens, str(options.tokenizer.resolve()), identity), codes)
        if len(pairs) == 1:
            _, positions, group = tokens.ids.shape
            pixels = tokens.size[0] * tokens.size[1]
            bits = positions * tokenizer.quantizer.bits_per_position
            print(f"{target}: {positions} positions x {group} tokens, {bits / pixels:.3g} bits a pixel")

    each(pairs, "Tokenizing", work)
    return 0


def _detokenize(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "smalti detokenize", description="Write the image of a token file, or of a folder."
    )
    add_files(parser, "a token file, or a folder of them", "the image to write (.png), or a folder for a folder")
    add_tokenizer(parser, fallback="the tokenizer that the file names; else ")
    _add_seed(parser)
    options = parser.parse_args(arguments)
    files = sorted(options.input.rglob("*.safetensors")) if options.input.is_dir() else [options.input]
    if not files:
        raise SmaltiError(f"{options.input} holds no token files (.safetensors).")
    pairs = plan(options.input, files, options.out, ".png", overwrite=options.overwrite)

    import torch

    from smalti.export.tokens import load_tokens
    from smalti.tokenizers.checkpoints import fingerprint

    device = open_device(options.device)
    path = options.tokenizer or _named_tokenizer(files)
    tokenizer, identity = open_tokenizer(path, device), fingerprint(path)

    @torch.inference_mode()
    def work(file: Path, target: Path) -> None:
        content = load_tokens(file)
        if content.fingerprint != identity:
            raise SmaltiError(
                f"{file} was made by another tokenizer ({content.tokenizer}, {content.fingerprint[:12]}) than {path} "
                f"({identity[:12]}): pass the one that made it with --tokenizer."
            )
        if content.tokens.frames is not None or len(content.tokens.ids) != 1:
            raise SmaltiError(
                f"{file} holds {len(content.tokens.ids)} samples of {content.tokens.frames or 1} frames, and this command "
                "writes one image a file: decode it with Tokenizer.detokenize."
            )
        _write(tokenizer.detokenize(content.tokens.to(device), _generator(options.seed)), target)

    each(pairs, "Detokenizing", work)
    return 0


def _named_tokenizer(files: list[Path]) -> Path:
    """The tokenizer that the first token file that can be read names."""
    from smalti.export.tokens import load_tokens

    for file in files[:-1]:
        try:
            return Path(load_tokens(file).tokenizer)
        except SmaltiError:
            continue  # `each` tells of it
    return Path(load_tokens(files[-1]).tokenizer)


def _reconstruct(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "smalti reconstruct", description="Write what a tokenizer makes of an image, or of a folder of images."
    )
    add_files(parser, "an image, or a folder of images", "the image to write (.png), or a folder for a folder")
    add_tokenizer(parser)
    _add_seed(parser)
    options = parser.parse_args(arguments)
    pairs = plan(options.input, _images(options.input), options.out, ".png", overwrite=options.overwrite)

    import torch

    device = open_device(options.device)
    tokenizer = open_tokenizer(options.tokenizer, device)

    @torch.inference_mode()
    def work(file: Path, target: Path) -> None:
        pixels = _read(file).to(device)
        _write(tokenizer(pixels, _generator(options.seed))[0], target)

    each(pairs, "Reconstructing", work)
    return 0


def _add_seed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seed", type=int, default=0, help="decides the noise of a generative decoder, for every file alike"
    )


def _generator(seed: int):  # noqa: ANN202 (torch is imported only when a command runs)
    import torch

    return torch.Generator().manual_seed(seed)


def _images(source: Path) -> list[Path]:
    """The image itself, or all images below a folder."""
    from smalti.data.folders import Folder

    return [source] if not source.is_dir() else Folder(source).paths


def _read(file: Path) -> Tensor:
    """(1, 3, H, W) in [-1, 1]."""
    from smalti.data import decode, to_pixels

    return to_pixels(decode(file)).unsqueeze(0)


def _write(pixels: Tensor, file: Path) -> None:
    """Write (1, 3, H, W) pixels rounded to 8 bits.

    Raises:
        SmaltiError: no image format of that suffix, or the file cannot be written.
    """
    from PIL import Image

    from smalti.eval.metrics import to_uint8

    try:
        with whole(file) as partial:
            Image.fromarray(to_uint8(pixels)[0].permute(1, 2, 0).cpu().numpy()).save(partial)
    except (OSError, ValueError) as error:
        raise SmaltiError(
            f"The image cannot be written to {file} ({error}): choose a name that ends in .png."
        ) from error
