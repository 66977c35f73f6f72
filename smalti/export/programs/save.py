"""Writing the programs of a tokenizer, with everything that is needed to check them, into one folder."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file

from smalti.errors import SmaltiError
from smalti.export.programs.contract import Contract, describe
from smalti.export.programs.golden import GOLDEN, make_golden
from smalti.export.programs.load import program_kinds
from smalti.export.programs.manifest import MANIFEST, manifest_content, read_manifest
from smalti.export.programs.modules import DecoderProgram, EncoderProgram, record_noise
from smalti.export.programs.runner import Programs
from smalti.export.programs.runtimes import COMPILED_SUFFIX, EXPORTED_SUFFIX, ONNX_SUFFIX, RUNTIMES, EagerRuntime
from smalti.export.programs.trace import (
    EXAMPLE,
    check_onnx_installed,
    decoder_inputs,
    trace,
    write_compiled,
    write_exported,
    write_onnx,
)
from smalti.files import atomic_write_folder, check_overwrite
from smalti.tokenizers.checkpoints import CARD, CONFIG, WEIGHTS, fingerprint, save
from smalti.tokenizers.tokenizer import Tokenizer

Format = Literal["torch", "onnx"]


def save_programs(
    tokenizer: Tokenizer,
    folder: str | Path,
    format: Format,  # noqa: A002 (the name of the option)
    *,
    compiled: bool = False,
    provenance: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the tokenizer, an encoder and a decoder as programs, and golden vectors.

    A folder with the programs of the same tokenizer in the other format is extended: both share the golden vectors. Files
    are written atomically, after the programs have reproduced the golden vectors. Programs compute in float32 on the CPU,
    and ids in int64, whatever the data type of the weights.

    Args:
        tokenizer: a tokenizer in evaluation mode. A joint tokenizer is exported as its discrete branch.
        folder: folder to write; created if it does not exist.
        format: "torch" (encoder.pt2, decoder.pt2) or "onnx" (encoder.onnx, decoder.onnx).
        compiled: for "torch", also compile with AOTInductor for this kind of machine (encoder.aoti.pt2, decoder.aoti.pt2).
        provenance: see `smalti.tokenizers.checkpoints.save`.
        overwrite: whether to replace an exported tokenizer and its programs.

    Raises:
        SmaltiError: the tokenizer cannot be traced or converted; a program computes something else; the folder must not be
            overwritten or cannot be written.
        MissingExtraError: the packages of the extra `onnx` are not installed.
    """
    folder = Path(folder)
    if format == "onnx":
        check_onnx_installed()
    if tokenizer.branches:
        tokenizer = tokenizer.as_discrete()
    tokenizer = copy.deepcopy(tokenizer).float().cpu().eval().requires_grad_(requires_grad=False)
    kept = _programs_to_keep(folder, tokenizer, format, overwrite=overwrite)
    contract = make_contract(tokenizer)
    modules = {
        "encoder": (EncoderProgram(tokenizer), (contract.pixels,), contract.grids),
        "decoder": (DecoderProgram(tokenizer, len(contract.grids)), decoder_inputs(contract), (contract.pixels,)),
    }
    golden = make_golden(EagerRuntime(tokenizer, contract))
    suffix = EXPORTED_SUFFIX if format == "torch" else ONNX_SUFFIX
    names: list[str] = []
    # The names are known when the block has run: an ONNX program with many weights has a second file.
    with atomic_write_folder(folder, names) as staged:
        save(tokenizer, staged, provenance=provenance)
        for part, (module, inputs, outputs) in modules.items():
            program = trace(module, inputs)
            if format == "onnx":
                write_onnx(program, staged / f"{part}{suffix}", inputs, outputs)
                continue
            write_exported(program, staged / f"{part}{suffix}")
            if compiled:
                write_compiled(program, staged / f"{part}{COMPILED_SUFFIX}")
        save_file(golden, staged / GOLDEN)
        programs = [file.name for file in staged.iterdir() if file.name not in (WEIGHTS, CARD, CONFIG)]
        content = manifest_content(contract, fingerprint(staged), staged, programs)
        content["files"] = dict(sorted((content["files"] | kept).items()))
        (staged / MANIFEST).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        _check_programs(staged, contract, programs)
        names += [WEIGHTS, CARD, *sorted(programs), CONFIG, MANIFEST]
    if not kept:
        _remove_outdated(folder, content["files"])
    return folder


def make_contract(tokenizer: Tokenizer) -> Contract:
    """Return what the programs of a tokenizer take and return.

    Raises:
        SmaltiError: see `describe`.
    """
    s, a, b = tokenizer.encoder.stride
    size = (1 + s * EXAMPLE["k"], a * EXAMPLE["h"], b * EXAMPLE["w"])
    noise = record_noise(tokenizer, list(tokenizer.encoder.latent_grids(size)), EXAMPLE["batch"])
    return describe(tokenizer, noise, EXAMPLE)


def _check_programs(folder: Path, contract: Contract, files: Sequence[str]) -> None:
    """Raise a SmaltiError if a program does not reproduce the golden vectors: exporters and compilers have bugs."""
    for kind in program_kinds(files):
        runtime = RUNTIMES[kind][1](folder)
        difference = Programs(contract, runtime, folder).compare()
        if not difference.passed:
            raise SmaltiError(
                f"The programs of {runtime.name} do not compute what the tokenizer computes ({difference}), and were not "
                "written: choose another --format, or leave out --compile."
            )


def _programs_to_keep(folder: Path, tokenizer: Tokenizer, format: Format, *, overwrite: bool) -> dict[str, str]:  # noqa: A002
    """Return the SHA-256 of the files of the other format that stay, by name; check that nothing else is overwritten."""
    if not (folder / MANIFEST).is_file():
        check_overwrite(folder, "an exported tokenizer", CONFIG, overwrite=overwrite)
        return {}
    _, content = read_manifest(folder)
    same = _weights_equal(folder, tokenizer)
    ours = (EXPORTED_SUFFIX,) if format == "torch" else (ONNX_SUFFIX, f"{ONNX_SUFFIX}.data")
    present = any(name.endswith(ours) for name in content["files"])
    if not overwrite and (present or not same):
        raise SmaltiError(
            f"{folder} already contains programs of {'this' if same else 'another'} tokenizer"
            f"{' in this format' if same else ''}: choose another folder, or pass --overwrite."
        )
    if not same:
        return {}
    return {name: digest for name, digest in content["files"].items() if not name.endswith(ours) and name != GOLDEN}


def _weights_equal(folder: Path, tokenizer: Tokenizer) -> bool:
    """Return whether a folder contains the same tokenizer."""
    from smalti.tokenizers.checkpoints import load
    from smalti.tokenizers.configurable import get_config

    present = load(folder)
    weights, theirs = tokenizer.state_dict(), present.state_dict()
    return (
        get_config(present) == get_config(tokenizer)
        and weights.keys() == theirs.keys()
        and all(torch.equal(weights[name], theirs[name]) for name in weights)
    )


def _remove_outdated(folder: Path, files: Sequence[str] | dict[str, str]) -> None:
    """Remove the programs of a tokenizer that was replaced."""
    for part in ("encoder", "decoder"):
        for suffix in (EXPORTED_SUFFIX, COMPILED_SUFFIX, ONNX_SUFFIX, f"{ONNX_SUFFIX}.data"):
            if f"{part}{suffix}" not in files:
                (folder / f"{part}{suffix}").unlink(missing_ok=True)
