"""What executes the programs of a folder: PyTorch itself, torch.export, AOTInductor, ONNX Runtime.

All have the same interface. Shapes: B batch; T frames, H, W pixels; t, h, w latent positions; C channels of
pixels or latents; G tokens per position.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smalti.errors import SmaltiError
from smalti.export.programs.contract import Contract
from smalti.export.programs.modules import DecoderProgram, EncoderProgram
from smalti.export.programs.trace import check_onnx_installed, quiet
from smalti.tokenizers.tokenizer import Tokenizer

EXPORTED_SUFFIX, COMPILED_SUFFIX, ONNX_SUFFIX = ".pt2", ".aoti.pt2", ".onnx"


class Runtime(ABC):
    """Executes an encoder and a decoder on the CPU.

    Attributes:
        name: name in `verification.json`.
    """

    name: str

    @abstractmethod
    def encode(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Map pixels (B, C, T, H, W) to one tensor per grid: ids (B, t, h, w, G) or latents (B, C, t, h, w)."""

    @abstractmethod
    def decode(self, grids: Sequence[Tensor], noise: Sequence[Tensor] = ()) -> Tensor:
        """Map one tensor per grid, and the noise of a generative decoder, to pixels (B, C, T, H, W)."""


class EagerRuntime(Runtime):
    """PyTorch without a traced program: the reference.

    Args:
        tokenizer: a tokenizer in float32 on the CPU.
        contract: its contract.
    """

    name = "torch"

    def __init__(self, tokenizer: Tokenizer, contract: Contract) -> None:
        self.contract = contract
        self.encoder = EncoderProgram(tokenizer)
        self.decoder = DecoderProgram(tokenizer, len(contract.grids))
        self.single = DecoderProgram(tokenizer, 1)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Encode. A grid that the encoder omits, because the sample is an image, is empty."""
        return self._complete(self.encoder(pixels), pixels)

    @torch.no_grad()
    def decode(self, grids: Sequence[Tensor], noise: Sequence[Tensor] = ()) -> Tensor:
        """Decode. Empty grids are omitted."""
        present = [grid for grid in grids if grid.numel()]
        decoder = self.decoder if len(present) == len(grids) else self.single
        return decoder(*present, *noise)

    @torch.no_grad()
    def margins(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Return the decision margin of each id."""
        return self._complete(self.encoder.margins(pixels), pixels)

    def _complete(self, grids: tuple[Tensor, ...], pixels: Tensor) -> tuple[Tensor, ...]:
        missing = self.contract.grids[len(grids) :]
        batch, _, frames, height, width = pixels.shape
        sizes = self.contract.sizes(batch, frames, height, width)
        return grids + tuple(grids[0].new_empty(spec.resolve(sizes)) for spec in missing)


class ExportedRuntime(Runtime):
    """Programs of torch.export.

    Args:
        folder: folder with encoder.pt2 and decoder.pt2.
    """

    name = "torch.export"

    def __init__(self, folder: Path) -> None:
        self.encoder, self.decoder = (_load_exported(folder / f"{part}.pt2") for part in ("encoder", "decoder"))

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Run the encoder."""
        return tuple(self.encoder(pixels))

    @torch.no_grad()
    def decode(self, grids: Sequence[Tensor], noise: Sequence[Tensor] = ()) -> Tensor:
        """Run the decoder."""
        return self.decoder(*grids, *noise)


class CompiledRuntime(ExportedRuntime):
    """Programs of AOTInductor.

    Args:
        folder: folder with encoder.aoti.pt2 and decoder.aoti.pt2.
    """

    name = "AOTInductor"

    def __init__(self, folder: Path) -> None:
        from torch import _inductor

        with quiet():
            self.encoder, self.decoder = (
                _read(folder / f"{part}{COMPILED_SUFFIX}", lambda file: _inductor.aoti_load_package(str(file)))
                for part in ("encoder", "decoder")
            )

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Run the encoder."""
        result = self.encoder(pixels)
        return (result,) if isinstance(result, Tensor) else tuple(result)


class OnnxRuntime(Runtime):
    """Programs of ONNX Runtime.

    Args:
        folder: folder with encoder.onnx and decoder.onnx.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        SmaltiError: a file is missing or damaged.
    """

    name = "ONNX Runtime"

    def __init__(self, folder: Path) -> None:
        check_onnx_installed()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # errors are raised
        options.intra_op_num_threads = torch.get_num_threads()

        def load(file: Path) -> Any:
            return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

        self.encoder, self.decoder = (_read(folder / f"{part}{ONNX_SUFFIX}", load) for part in ("encoder", "decoder"))

    def encode(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Run the encoder."""
        return self._run(self.encoder, (pixels,))

    def decode(self, grids: Sequence[Tensor], noise: Sequence[Tensor] = ()) -> Tensor:
        """Run the decoder."""
        return self._run(self.decoder, (*grids, *noise))[0]

    @staticmethod
    def _run(session: Any, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        names = [value.name for value in session.get_inputs()]
        feed = {name: x.contiguous().numpy() for name, x in zip(names, inputs, strict=True)}
        return tuple(torch.from_numpy(result) for result in session.run(None, feed))


RUNTIMES: dict[str, tuple[str, Callable[[Path], Runtime]]] = {
    "onnx": (ONNX_SUFFIX, OnnxRuntime),
    "compiled": (COMPILED_SUFFIX, CompiledRuntime),
    "torch": (EXPORTED_SUFFIX, ExportedRuntime),
}
"""The suffix of the files and the class of each kind of program, by its name in `load_programs`."""


def _load_exported(file: Path) -> Any:
    def load(file: Path) -> Any:
        with quiet():
            module = torch.export.load(file).module(check_guards=False)
        # The remaining checks refuse sizes of 1, for which the graph is correct too: `Programs` checks sizes itself.
        module._forward_pre_hooks.clear()
        return module

    return _read(file, load)


def _read(file: Path, load: Callable[[Path], Any]) -> Any:
    """Load a program.

    Raises:
        SmaltiError: the file is missing or damaged.
    """
    if not file.is_file():
        raise SmaltiError(f"There is no program {file}: export the tokenizer again.")
    try:
        return load(file)
    except Exception as error:  # any: libraries raise errors of many kinds for a damaged file
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise SmaltiError(f"{file} cannot be loaded ({reason}): export the tokenizer again.") from error
