"""Tokenizing batches on a device: from 8-bit pixels to arrays as they are stored.

Shapes: B samples; T frames, H, W pixels; N positions, G tokens per position, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from smalti.errors import SmaltiError
from smalti.export.vocabulary import VisualVocabulary
from smalti.pixels import uint8_to_pixels
from smalti.tokenization.dataset_info import DatasetInfo
from smalti.tokenization.reduction import Reduction, split_samples
from smalti.tokenization.storage import latents_to_numpy, numpy_type, pack_samples
from smalti.tokenizers.tokenizer import Tokenizer
from smalti.types import Latents, Layout, TokenGrid


@dataclass(frozen=True)
class EncodedBatch:
    """A tokenized batch.

    Attributes:
        arrays: one list per array, with the stored array of each sample.
        layout: layout of every sample.
        sums: (B, 2, C) float64: sums of each channel and of its square over the positions, of latents that are not
            normalized; None for tokens and reduced latents.
    """

    arrays: dict[str, list[np.ndarray]]
    layout: Layout
    sums: np.ndarray | None


@dataclass
class PendingBatch:
    """A batch that the device may still compute. `result` waits for it."""

    tensors: dict[str, Tensor]
    layout: Layout
    finish: Callable[[dict[str, Tensor], Layout], EncodedBatch]
    event: torch.cuda.Event | None = None
    sources: list[Tensor] = field(default_factory=list)

    def result(self) -> EncodedBatch:
        """Return the batch.

        Raises:
            SmaltiError: a latent is NaN or infinite.
        """
        if self.event is not None:
            self.event.synchronize()
        return self.finish(self.tensors, self.layout)


class BatchEncoder:
    """Tokenizes batches. Starting one does not wait for it, so that the device computes while earlier ones are written.

    Args:
        tokenizer: in evaluation mode, on its device.
        info: what is stored.
        vocabulary: vocabulary whose ids are stored; None to store the tokenizer's ids.
        reduction: reduction of the latents; None to store all of them.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        info: DatasetInfo,
        vocabulary: VisualVocabulary | None = None,
        reduction: Reduction | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._info = info
        self._vocabulary = vocabulary
        self._reduction = reduction
        self._weight = next(tokenizer.parameters(), torch.empty(0))
        self._statistics: tuple[Tensor, Tensor] | None = None
        if info.statistics is not None:
            mean, std = (torch.tensor(info.statistics[name], device=self._weight.device) for name in ("mean", "std"))
            self._statistics = (mean, std)

    @torch.inference_mode()
    def start(self, images: Tensor) -> PendingBatch:
        """Start to tokenize a batch.

        Args:
            images: (B, 3, H, W) or (B, 3, T, H, W) uint8 on the CPU.

        Raises:
            SmaltiError: the tokenizer does not accept the pixels.
        """
        device = self._weight.device
        pixels = uint8_to_pixels(images.to(device, non_blocking=True))
        autocast = self._info.precision == "bfloat16"
        with torch.autocast(device.type, torch.bfloat16) if autocast else nullcontext():
            latents = self._tokenizer.encode(pixels if autocast else pixels.to(self._weight.dtype))
        tensors = self._select_tensors(latents, pixels)
        if device.type != "cuda":
            return PendingBatch(
                {name: tensor.cpu() for name, tensor in tensors.items()}, latents.layout(), self._finish
            )
        copies = {name: tensor.to("cpu", non_blocking=True) for name, tensor in tensors.items()}
        event = torch.cuda.Event()
        event.record()
        # The tensors on the device are kept until their copies are complete.
        return PendingBatch(copies, latents.layout(), self._finish, event, [images, *tensors.values()])

    def _select_tensors(self, latents: Latents, pixels: Tensor) -> dict[str, Tensor]:
        """Return the tensors to copy to the CPU."""
        z = latents.z
        tensors = {"finite": z.isfinite().flatten(1).all(1)}
        if self._info.kind == "tokens":
            assert latents.code.ids is not None
            return tensors | {"ids": latents.code.ids}
        if self._reduction is not None:
            return tensors | self._reduction.reduce(self._tokenizer, latents, pixels.to(z.dtype))
        values = z.double()
        tensors["sums"] = torch.stack([values.sum(1), values.square().sum(1)], dim=1)
        log_variance = latents.code.log_variance
        if self._statistics is not None:
            mean, std = self._statistics
            z = (z - mean) / std
            log_variance = None if log_variance is None else log_variance - 2 * std.log()
        dtype = getattr(torch, self._info.dtype)
        tensors["mean"] = z.to(dtype)
        if "log_variance" in self._info.arrays:
            assert log_variance is not None
            tensors["log_variance"] = log_variance.to(dtype)
        for name in self._info.arrays:
            tensors["finite"] &= tensors[name].isfinite().flatten(1).all(1)
        return tensors

    def _finish(self, tensors: dict[str, Tensor], layout: Layout) -> EncodedBatch:
        finite = tensors["finite"]
        if not finite.all():
            raise SmaltiError(
                f"The tokenizer gives NaN or infinite latents for {int((~finite).sum())} of {len(finite)} samples of a "
                f"batch: its weights are damaged, or its latents exceed the range of {self._info.dtype}; try --dtype "
                "float32 and --precision float32."
            )
        if self._reduction is not None:
            return EncodedBatch(split_samples(tensors, layout.grids, self._info.dtype), layout, None)
        sums = tensors["sums"].numpy() if "sums" in tensors else None
        if "ids" in tensors:
            return EncodedBatch({self._info.arrays[0]: self._store_ids(tensors["ids"].numpy(), layout)}, layout, sums)
        arrays = {name: list(latents_to_numpy(tensors[name].contiguous())) for name in self._info.arrays}
        return EncodedBatch(arrays, layout, sums)

    def _store_ids(self, ids: np.ndarray, layout: Layout) -> list[np.ndarray]:
        info = self._info
        if self._vocabulary is not None:
            grid = TokenGrid(ids=torch.from_numpy(ids), grids=layout.grids, size=layout.size, frames=layout.frames)
            return [sequence.astype(numpy_type(info.dtype)) for sequence in self._vocabulary.to_ids(grid)]
        if info.packed_bits:
            return list(pack_samples(ids, info.packed_bits))
        return list(ids.astype(numpy_type(info.dtype)))
