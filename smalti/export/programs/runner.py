"""Running the programs of a folder on pixels of any size, as a `Tokenizer` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from smalti.errors import SmaltiError
from smalti.export.programs.comparison import Difference
from smalti.export.programs.contract import Contract
from smalti.export.programs.golden import read_golden
from smalti.export.programs.runtimes import Runtime
from smalti.tokenizers.layers.noise import randn, randn_per_frame


class Programs:
    """An encoder and a decoder that another runtime executes. The programs need no class of the tokenizer.

    Args:
        contract: what they take and return.
        runtime: what executes them.
        folder: the folder that they were loaded from.
    """

    def __init__(self, contract: Contract, runtime: Runtime, folder: Path) -> None:
        self.contract = contract
        self.runtime = runtime
        self.folder = folder

    def encode(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Encode pixels of any size. They are padded as `Tokenizer.encode` pads them.

        Args:
            pixels: (B, C, H, W) or (B, C, T, H, W) in [-1, 1], with the channels of the contract, 3 for photos.

        Returns:
            One tensor per grid: ids (B, t, h, w, tokens per position) int64, or latents (B, channels, t, h, w).

        Raises:
            SmaltiError: the pixels have another shape or data type.
        """
        c = self.contract.channels
        if pixels.ndim not in (4, 5) or pixels.shape[1] != c or not pixels.is_floating_point():
            raise SmaltiError(
                f"The encoder takes floating-point pixels (B, {c}, H, W) or (B, {c}, T, H, W), not "
                f"{tuple(pixels.shape)} of {pixels.dtype}: convert 8-bit images with x / 127.5 - 1."
            )
        video = pixels.unsqueeze(2) if pixels.ndim == 4 else pixels
        s, a, b = self.contract.stride
        frames, height, width = video.shape[2:]
        padding = (0, -width % b, 0, -height % a, 0, -(frames - 1) % s)
        video = F.pad(video.float(), padding, mode="replicate") if any(padding) else video.float()
        self.contract.sizes(len(video), *video.shape[2:])
        return self.runtime.encode(video)

    def decode(
        self, grids: Sequence[Tensor], size: tuple[int, int], frames: int | None = None, seed: int = 0
    ) -> Tensor:
        """Decode what `encode` returned.

        Args:
            grids: one tensor per grid.
            size: (height, width) in pixels.
            frames: number of frames of a clip; None for an image.
            seed: seed of the noise of a generative decoder. `Tokenizer.decode` draws the same noise from a generator with
                this seed.

        Returns:
            (B, C, H, W) or (B, C, T, H, W).

        Raises:
            SmaltiError: the grids are not those of this size, or an id is out of range.
        """
        s, a, b = self.contract.stride
        padded = (1 - (1 - (frames or 1)) // s * s, -(-size[0] // a) * a, -(-size[1] // b) * b)
        sizes = self.contract.sizes(len(grids[0]), *padded)
        for spec, grid in zip(self.contract.grids, grids, strict=True):
            if tuple(grid.shape) != spec.resolve(sizes):
                raise SmaltiError(
                    f"{spec.name} of this size has the shape {spec.resolve(sizes)}, not {tuple(grid.shape)}: pass what "
                    "encode returned, with the true size and number of frames."
                )
            self._check_range(grid)
        pixels = self.runtime.decode(grids, draw_noise(self.contract, sizes, seed))
        pixels = pixels[:, :, : frames or 1, : size[0], : size[1]]
        return pixels.squeeze(2) if frames is None else pixels

    def compare(self) -> Difference:
        """Return the differences between the programs and their golden vectors.

        Raises:
            SmaltiError: the golden vectors cannot be read.
        """
        difference = Difference()
        for case in read_golden(self.folder, self.contract):
            grids = self.runtime.encode(case.pixels)
            if self.contract.discrete:
                difference.add_ids(case.grids, grids, case.margins)
            else:
                difference.add_latents(case.grids, grids)
            difference.add_pixels(case.reconstruction, self.runtime.decode(case.grids, case.noise))
        return difference

    def check(self) -> Difference:
        """Compare the programs with their golden vectors.

        Returns:
            The differences.

        Raises:
            SmaltiError: an id differs although its margin is large, or values differ by more than the tolerance.
        """
        difference = self.compare()
        if not difference.passed:
            raise SmaltiError(
                f"The programs in {self.folder} do not reproduce their golden vectors with {self.runtime.name} "
                f"({difference}): do not use them on this machine, and run `smalti verify {self.folder}`."
            )
        return difference

    def _check_range(self, ids: Tensor) -> None:
        size = self.contract.codebook_size
        if size is None or not ids.numel():
            return
        low, high = (int(bound) for bound in ids.aminmax())
        if low < 0 or high >= size:
            raise SmaltiError(f"The ids range from {low} to {high}, but these programs take 0 to {size - 1}.")


def draw_noise(contract: Contract, sizes: dict[str, int], seed: int) -> list[Tensor]:
    """Draw the noise inputs of the decoder, the same noise as `Tokenizer.decode` draws from a generator with this seed."""
    generator = torch.Generator().manual_seed(seed)
    noise = []
    for spec in contract.noise:
        like = torch.empty(spec.resolve(sizes))
        noise.append(randn_per_frame(like, generator) if like.ndim == 5 else randn(like, tuple(like.shape), generator))
    return noise
