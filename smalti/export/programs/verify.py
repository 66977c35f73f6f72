"""Comparing the programs of a folder with the tokenizer on real samples, one by one and batched."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smalti.errors import SmaltiError
from smalti.export.programs.comparison import MARGIN, TOLERANCE, Difference
from smalti.export.programs.contract import Contract
from smalti.export.programs.load import program_kinds
from smalti.export.programs.manifest import read_manifest
from smalti.export.programs.runner import draw_noise
from smalti.export.programs.runtimes import RUNTIMES, EagerRuntime, Runtime
from smalti.files import atomic_write
from smalti.tokenizers.checkpoints import fingerprint, load
from smalti.version import __version__

RESULT = "verification.json"


@dataclass(frozen=True)
class Verification:
    """The differences between the tokenizer and each program.

    Attributes:
        rows: differences by runtime and mode, such as ("ONNX Runtime", "batched").
        samples: number of images or clips that were compared.
        shapes: shapes of their batches.
        kinds: kinds of programs in the folder.
    """

    rows: dict[tuple[str, str], Difference] = field(default_factory=dict)
    samples: int = 0
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    kinds: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every program keeps the promise."""
        return all(difference.passed for difference in self.rows.values())


def verify(
    folder: str | Path, batches: Sequence[Tensor], progress: Callable[[int], None] | None = None
) -> Verification:
    """Compare every program in a folder with the tokenizer that it was exported from.

    The reference is the tokenizer in PyTorch, on one sample after the other. It is compared with itself on batches, and
    with each program on single samples and on batches. Programs decode the ids of the reference, so that pixels can be
    compared even where an id differs.

    Args:
        folder: folder that `smalti export --format torch` or `--format onnx` wrote.
        batches: pixels (B, C, T, H, W) in [-1, 1] each, sizes that the encoder accepts, at least one.
        progress: called with the number of batches that are done.

    Raises:
        SmaltiError: the folder is damaged, has no programs, or contains another tokenizer; or `batches` is empty.
    """
    folder = Path(folder)
    contract, content = read_manifest(folder)
    if content.get("tokenizer_sha256") != fingerprint(folder):
        raise SmaltiError(f"The programs in {folder} are not those of its tokenizer: export the tokenizer again.")
    if not batches:
        raise SmaltiError("There are no samples to verify the programs with: give images or clips.")
    reference = EagerRuntime(load(folder).float(), contract)
    kinds = program_kinds(content["files"])
    runtimes: list[Runtime] = [reference, *(RUNTIMES[kind][1](folder) for kind in kinds)]
    result = Verification(kinds=tuple(kinds))
    samples = 0
    for done, pixels in enumerate(batches, start=1):
        expected = _Expected.compute(reference, contract, pixels)
        for runtime in runtimes:
            if runtime is not reference:
                _compare_singles(result, runtime, contract, pixels, expected)
            _compare_batch(result, runtime, contract, pixels, expected)
        samples += len(pixels)
        result.shapes.append(tuple(pixels.shape))
        if progress is not None:
            progress(done)
    return Verification(result.rows, samples, result.shapes, result.kinds)


def write_verification(result: Verification, folder: Path, data: dict[str, Any]) -> Path:
    """Write `verification.json` atomically.

    Args:
        result: the result.
        folder: the folder of the programs.
        data: what describes the samples, as JSON can represent it.
    """
    versions = {name: _version(name) for name in ("torch", "onnx", "onnxruntime")}
    content = {
        "smalti": __version__,
        "tokenizer_sha256": fingerprint(folder),
        "passed": result.passed,
        "promise": {"margin": MARGIN, "tolerance": TOLERANCE},
        "data": data | {"samples": result.samples, "shapes": [list(shape) for shape in result.shapes]},
        "machine": platform.processor() or platform.machine(),
        "versions": versions,
        "results": [
            {"runtime": runtime, "mode": mode} | difference.to_json()
            for (runtime, mode), difference in result.rows.items()
        ],
    }
    file = folder / RESULT
    with atomic_write(file) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return file


@dataclass(frozen=True)
class _Expected:
    """What the reference computes for the samples of a batch, one after the other, joined to batches again."""

    grids: tuple[Tensor, ...]
    margins: tuple[Tensor, ...]
    noise: list[list[Tensor]]
    pixels: Tensor

    @classmethod
    def compute(cls, reference: EagerRuntime, contract: Contract, pixels: Tensor) -> _Expected:
        singles = pixels.split(1)
        noise = [draw_noise(contract, _sizes(contract, x), seed) for seed, x in enumerate(singles)]
        grids = [reference.encode(x) for x in singles]
        margins = [reference.margins(x) for x in singles] if contract.discrete else [()]
        decoded = [reference.decode(grid, drawn) for grid, drawn in zip(grids, noise, strict=True)]
        return cls(_join(grids), _join(margins), noise, torch.cat(decoded))


def _compare_singles(
    result: Verification, runtime: Runtime, contract: Contract, pixels: Tensor, expected: _Expected
) -> None:
    difference = result.rows.setdefault((runtime.name, "one by one"), Difference())
    _add_grids(difference, contract, expected, _join([runtime.encode(x) for x in pixels.split(1)]))
    singles = [tuple(grid[i : i + 1] for grid in expected.grids) for i in range(len(pixels))]
    decoded = [runtime.decode(grids, noise) for grids, noise in zip(singles, expected.noise, strict=True)]
    difference.add_pixels(expected.pixels, torch.cat(decoded))


def _compare_batch(
    result: Verification, runtime: Runtime, contract: Contract, pixels: Tensor, expected: _Expected
) -> None:
    difference = result.rows.setdefault((runtime.name, "batched"), Difference())
    _add_grids(difference, contract, expected, runtime.encode(pixels))
    if any(len(spec.shape) == 2 for spec in contract.noise):
        return  # all samples of a batch share the injected noise: single samples have other noise
    noise = [torch.cat(parts) for parts in zip(*expected.noise, strict=True)]
    difference.add_pixels(expected.pixels, runtime.decode(expected.grids, noise))


def _add_grids(difference: Difference, contract: Contract, expected: _Expected, grids: tuple[Tensor, ...]) -> None:
    if contract.discrete:
        difference.add_ids(expected.grids, grids, expected.margins)
    else:
        difference.add_latents(expected.grids, grids)


def _join(parts: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    return tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))


def _sizes(contract: Contract, pixels: Tensor) -> dict[str, int]:
    batch, _, frames, height, width = pixels.shape
    return contract.sizes(batch, frames, height, width)


def _version(package: str) -> str | None:
    try:
        return import_module(package).__version__
    except ImportError:
        return None
