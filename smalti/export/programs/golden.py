"""Golden vectors: inputs and outputs of the tokenizer that travel with its programs.

`golden.safetensors` has tensors CASE/NAME: pixels, the grids by their names, margins.NAME for ids, the noise by its names,
and reconstruction. The input is a fixed pattern, so that a program in any language can be checked without other files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from smalti.export.programs.contract import Contract
from smalti.export.programs.runtimes import EagerRuntime
from smalti.tokenizers.weight_files import read_safetensors

GOLDEN = "golden.safetensors"

_CASES = {
    "image": {"batch": 1, "k": 0, "h": 3, "w": 2},
    "images": {"batch": 2, "k": 0, "h": 2, "w": 3},
    "clip": {"batch": 1, "k": 1, "h": 2, "w": 2},
    "clips": {"batch": 2, "k": 2, "h": 1, "w": 2},
}
"""Sizes of each case: an image, a batch, a clip, and a batch of clips one latent position high."""


@dataclass(frozen=True)
class GoldenCase:
    """One input and the outputs of the tokenizer.

    Attributes:
        name: name of the case.
        pixels: (B, C, T, H, W).
        grids: ids or latents, one tensor per grid.
        margins: decision margins of ids, in their shapes; empty if the tokenizer is continuous.
        noise: noise inputs of a generative decoder.
        reconstruction: pixels decoded from `grids` with `noise`.
    """

    name: str
    pixels: Tensor
    grids: tuple[Tensor, ...]
    margins: tuple[Tensor, ...]
    noise: tuple[Tensor, ...]
    reconstruction: Tensor


def make_golden(reference: EagerRuntime, noise_seed: int = 0) -> dict[str, Tensor]:
    """Return the tensors of `golden.safetensors`."""
    from smalti.export.programs.runner import draw_noise  # imports this module

    contract, tensors = reference.contract, {}
    for name, sizes in _CASES.items():
        pixels = pattern(contract.pixels.resolve(sizes))
        grids, noise = reference.encode(pixels), draw_noise(contract, sizes, noise_seed)
        tensors[f"{name}/pixels"] = pixels
        tensors |= {f"{name}/{spec.name}": grid for spec, grid in zip(contract.grids, grids, strict=True)}
        if contract.discrete:
            margins = zip(contract.grids, reference.margins(pixels), strict=True)
            tensors |= {f"{name}/margins.{spec.name}": margin for spec, margin in margins}
        tensors |= {f"{name}/{spec.name}": x for spec, x in zip(contract.noise, noise, strict=True)}
        tensors[f"{name}/reconstruction"] = reference.decode(grids, noise)
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def read_golden(folder: Path, contract: Contract) -> list[GoldenCase]:
    """Read the golden vectors of a folder.

    Raises:
        SmaltiError: the file does not exist or is damaged.
    """
    tensors = read_safetensors(folder / GOLDEN)
    cases = []
    for name in dict.fromkeys(key.partition("/")[0] for key in tensors):
        margins = tuple(f"{name}/margins.{spec.name}" for spec in contract.grids) if contract.discrete else ()
        cases.append(
            GoldenCase(
                name,
                tensors[f"{name}/pixels"],
                tuple(tensors[f"{name}/{spec.name}"] for spec in contract.grids),
                tuple(tensors[key] for key in margins),
                tuple(tensors[f"{name}/{spec.name}"] for spec in contract.noise),
                tensors[f"{name}/reconstruction"],
            )
        )
    return cases


def pattern(shape: tuple[int, ...]) -> Tensor:
    """Return pixels (B, C, T, H, W) in [-1, 1]: moving waves, different for each sample and color."""
    axes = [
        torch.arange(size, dtype=torch.float64).view([-1 if i == j else 1 for j in range(5)])
        for i, size in enumerate(shape)
    ]
    sample, color, frame, row, column = axes
    phase = 1.7 * sample + 2.1 * color + 0.3 * frame
    slow = torch.sin(row / 7 + phase) * torch.cos(column / 9 - phase)
    fast = torch.sin(row * 0.9 + column * 0.6 + 3 * phase)
    return (0.6 * slow + 0.4 * fast).float()
