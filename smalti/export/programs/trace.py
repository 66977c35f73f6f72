"""Tracing both modules with dynamic sizes, and writing them: torch.export, AOTInductor, ONNX."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from smalti.errors import MissingExtraError, SmaltiError
from smalti.export.programs.contract import Contract, TensorSpec, linear_form

EXAMPLE = {"batch": 2, "k": 3, "h": 4, "w": 5}
"""Sizes of the inputs with which a module is traced. Sizes of 1 would be taken as constant."""

_COMPILER_OPTIONS = {"layout_optimization": False}
"""Options of AOTInductor. With dynamic sizes, its choice of memory layouts reads wrong strides for a batch of one clip."""

_MAX_EMBEDDED = 2**30
"""Bytes of weights up to which an ONNX file contains them. A protobuf message is limited to 2 GiB."""


def trace(module: nn.Module, inputs: Sequence[TensorSpec]) -> ExportedProgram:
    """Trace a module with dynamic batch, frames, height and width.

    Args:
        module: a module in evaluation mode, in float32 on the CPU.
        inputs: its inputs.

    Raises:
        SmaltiError: the module cannot be traced, for example because it branches on the values of a tensor.
    """
    # torch derives conditions such as "not 1" for sizes that decide about memory formats. They do not change results.
    dims = {name: Dim(name, min=1 if name == "batch" else 2) for name in EXAMPLE}
    shapes = tuple(_dynamic_axes(spec, dims) for spec in inputs)
    examples = tuple(_example(spec) for spec in inputs)
    dynamic = (shapes,) if len(_positional(module)) == 0 else shapes
    try:
        with torch.no_grad(), quiet():
            return torch.export.export(module, examples, dynamic_shapes=dynamic)
    except Exception as error:  # any: the module may be the user's
        raise SmaltiError(
            f"{type(module).__name__} cannot be traced by torch.export ({_first_line(error)}): export the tokenizer in the "
            "format smalti, or change the part that branches on values or on sizes."
        ) from error


def write_exported(program: ExportedProgram, file: Path) -> None:
    """Write a traced program for `torch.export.load`."""
    torch.export.save(program, file)


def write_compiled(program: ExportedProgram, file: Path) -> None:
    """Compile a traced program with AOTInductor for the kind of machine that runs this, and write it.

    Raises:
        SmaltiError: the compiler fails, for example because there is no C++ compiler.
    """
    from torch import _inductor

    try:
        with quiet():
            _inductor.aoti_compile_and_package(
                program, package_path=str(file), inductor_configs=dict(_COMPILER_OPTIONS)
            )
    except Exception as error:  # any: the compiler raises errors of many kinds
        raise SmaltiError(
            f"AOTInductor cannot compile {file.name} ({_first_line(error)}): install a C++ compiler (apt install g++), or "
            "leave out --compile."
        ) from error


def write_onnx(
    program: ExportedProgram, file: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> None:
    """Write a traced program as ONNX, with the names and the symbolic shapes of the contract.

    More than 1 GiB of weights are written to a second file, next to the first, with the suffix .data.

    Raises:
        SmaltiError: an operation has no equivalent in ONNX.
        MissingExtraError: the packages of the extra `onnx` are not installed.
    """
    check_onnx_installed()
    import onnx_ir

    try:
        with torch.no_grad(), quiet():
            converted = torch.onnx.export(
                program,
                input_names=[spec.name for spec in inputs],
                output_names=[spec.name for spec in outputs],
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise SmaltiError(
            f"{file.name} cannot be written ({_last_reason(error)}): use --format torch, or replace the operation."
        ) from error
    assert converted is not None
    for value, spec in zip(
        (*converted.model.graph.inputs, *converted.model.graph.outputs), (*inputs, *outputs), strict=True
    ):
        value.shape = onnx_ir.Shape(spec.shape)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in program.state_dict.values())
    converted.save(str(file), external_data=weights > _MAX_EMBEDDED)


def check_onnx_installed() -> None:
    """Raise a MissingExtraError if a package of the extra `onnx` is not installed."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(package)
        except ImportError as error:
            raise MissingExtraError(package, "onnx", "ONNX programs") from error


def decoder_inputs(contract: Contract) -> tuple[TensorSpec, ...]:
    """Return the inputs of the decoder in their order."""
    return (*contract.grids, *contract.noise)


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the messages with which torch's exporters comment on their own work."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.__trace", "torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _dynamic_axes(spec: TensorSpec, dims: dict[str, Any]) -> dict[int, Any]:
    axes = {}
    for axis, size in enumerate(spec.shape):
        if isinstance(size, str):
            name, factor, offset = linear_form(size)
            dim = dims[name] if factor == 1 else factor * dims[name]
            axes[axis] = dim + offset if offset else dim
    return axes


def _example(spec: TensorSpec) -> Tensor:
    return torch.zeros(spec.resolve(EXAMPLE), dtype=getattr(torch, spec.dtype))


def _positional(module: nn.Module) -> tuple[str, ...]:
    """Return the names of the positional parameters of forward; none if it takes *inputs."""
    code = module.forward.__code__
    return code.co_varnames[1 : code.co_argcount]


def _first_line(error: Exception) -> str:
    return next((line.strip().rstrip(".:") for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _last_reason(error: BaseException) -> str:
    """Return the message of the deepest cause: the exporter wraps it in general advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return _first_line(error) if isinstance(error, Exception) else str(error)
