"""Programs compute what the tokenizer computes, for every family and bottleneck, for images and clips of any size."""

import json
import runpy
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import smalti
from smalti.commands import verify
from smalti.errors import SmaltiError
from smalti.export.programs import load_programs, save_programs
from smalti.export.programs.comparison import MARGIN
from smalti.export.programs.modules import DecoderProgram, EncoderProgram
from smalti.export.programs.runtimes import RUNTIMES, EagerRuntime, OnnxRuntime
from smalti.export.programs.save import make_contract
from smalti.export.programs.trace import trace, write_exported, write_onnx
from smalti.tokenizers import with_channels

CASES = [
    ("wetok", "gq", "onnx"),
    pytest.param("onevae", "joint", "torch", marks=pytest.mark.slow),
    pytest.param("uniwetok", "gq", "torch", marks=pytest.mark.slow),
    pytest.param("cosmos", "fsq", "onnx", marks=pytest.mark.slow),
    pytest.param("onevae_first_frame", "gq", "onnx", marks=pytest.mark.slow),
    pytest.param("ltx_generative", "kl_shared", "onnx", marks=pytest.mark.slow),
]


def sizes(stride):
    """Return an image and a clip whose sizes are no multiples of the stride, and the smallest image."""
    s, a, b = stride
    return [(1, 3, 3 * a - 1, 2 * b), (2, 3, 1 + 3 * s - (s > 1), 2 * a, 4 * b - 1), (1, 3, a, b)]


@pytest.mark.parametrize(("family", "bottleneck", "kind"), CASES)
def test_programs_equal_the_tokenizer(exported, family, bottleneck, kind):
    folder = exported(family, bottleneck, kind)
    programs, tokenizer = load_programs(folder), smalti.load(folder)  # the first checks the golden vectors
    for shape in sizes(tokenizer.encoder.stride):
        pixels = torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
        latents = tokenizer.encode(pixels)
        grids = [grid for grid in programs.encode(pixels) if grid.numel()]
        if tokenizer.discrete:
            h = torch.cat([ids.flatten(1, 3) for ids in grids], dim=1)
            assert h.dtype == torch.int64
            assert (h != latents.code.ids).float().mean() <= 0.01  # `check` compares ids with their margins
        else:
            for ours, theirs in zip(grids, latents.to_grids(), strict=True):
                torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
        complete = programs.encode(pixels)
        decoded = programs.decode(complete, latents.size, latents.frames, seed=3)
        expected = tokenizer.decode(latents, torch.Generator().manual_seed(3))
        if not tokenizer.discrete or torch.equal(h, latents.code.ids):
            torch.testing.assert_close(decoded, expected, atol=1e-4, rtol=0)
        assert decoded.shape == pixels.shape


@pytest.mark.parametrize("kind", ["onnx", pytest.param("torch", marks=pytest.mark.slow)])
def test_programs_of_other_channels(build, tmp_path, kind):
    bands = {"rgb": 3, "nir": 1, "swir": 2}
    tokenizer = with_channels(build("wetok", "gq"), bands).eval()
    with torch.no_grad():  # as training does: new channels are read
        tokenizer.encoder.encoder.conv_in.weight.add_(0.02)
        tokenizer.decoder.last_layer.weight.add_(0.02)
    folder = save_programs(tokenizer, tmp_path / "programs", kind)
    programs = load_programs(folder)
    assert programs.contract.channels == 6
    pixels = torch.rand(2, 6, 15, 17, generator=torch.Generator().manual_seed(1)) * 2 - 1
    latents = tokenizer.encode(pixels)
    (ids,) = programs.encode(pixels)
    assert torch.equal(ids.flatten(1, 3), latents.code.ids)
    torch.testing.assert_close(programs.decode([ids], latents.size), tokenizer.decode(latents), atol=1e-4, rtol=0)
    with pytest.raises(SmaltiError, match=r"pixels \(B, 6, H, W\)"):
        programs.encode(pixels[:, :3])

    with pytest.raises(SmaltiError, match="The programs take 6 channels, but photos:validation has rgb 3"):
        verify.run("verify", [str(folder)])
    data = tmp_path / "bands"
    data.mkdir()
    np.save(data / "a.npy", np.random.default_rng(0).integers(0, 256, (24, 24, 6), np.uint8))
    (data / "channels.yaml").write_text("channels: {rgb: 3, nir: 1, swir: 2}")
    assert verify.run("verify", [str(folder), "--data", str(data), "--size", "16"]) == 0
    assert json.loads((folder / "verification.json").read_text())["passed"]


@pytest.mark.slow
def test_programs_of_an_autoencoder_of_diffusers(tmp_path):
    """`save_programs` compares the golden vectors, which have other batches and frames than the traced example."""
    pytest.importorskip("diffusers")
    models = runpy.run_path(str(Path(__file__).parents[2] / "diffusers_models.py"))
    tokenizer = smalti.load(models["write"]("sd", tmp_path / "sd"))
    save_programs(tokenizer, tmp_path / "programs", "torch")
    pixels = torch.rand(3, 3, 16, 24) * 2 - 1
    latents = tokenizer.encode(pixels)
    (grid,) = load_programs(tmp_path / "programs").encode(pixels)
    torch.testing.assert_close(grid, latents.to_grids()[0], atol=1e-5, rtol=1e-5)


class AllEncoders(nn.Module):
    """The encoder programs of several tokenizers as one: an export to ONNX takes seconds, whatever its size."""

    def __init__(self, tokenizers):
        super().__init__()
        self.programs = nn.ModuleList(EncoderProgram(tokenizer) for tokenizer in tokenizers)

    def forward(self, pixels):
        return tuple(program(pixels)[0] for program in self.programs)


class AllDecoders(nn.Module):
    """The decoder programs of several tokenizers as one."""

    def __init__(self, tokenizers):
        super().__init__()
        self.programs = nn.ModuleList(DecoderProgram(tokenizer, 1) for tokenizer in tokenizers)

    def forward(self, *grids):
        return tuple(program(grid) for program, grid in zip(self.programs, grids, strict=True))


@pytest.mark.slow
def test_programs_of_every_bottleneck(build, bottlenecks, tmp_path):
    """In torch.export and ONNX. The networks are one convolution each."""
    tokenizers = {name: build("patches", name) for name in bottlenecks}
    tokenizers = {name: t.as_discrete() if t.branches else t for name, t in tokenizers.items()}
    references = {name: EagerRuntime(tokenizer, make_contract(tokenizer)) for name, tokenizer in tokenizers.items()}
    contracts = {name: reference.contract for name, reference in references.items()}
    pixels = contracts["gq"].pixels
    grids = [replace(contract.grids[0], name=name) for name, contract in contracts.items()]
    encoder, decoder = AllEncoders(tokenizers.values()), AllDecoders(tokenizers.values())
    exported = [trace(encoder, (pixels,)), trace(decoder, grids)]
    write_onnx(exported[0], tmp_path / "encoder.onnx", (pixels,), grids)
    write_onnx(exported[1], tmp_path / "decoder.onnx", grids, [replace(pixels, name=f"{n}_pixels") for n in contracts])
    onnx = OnnxRuntime(tmp_path)
    for shape in ((2, 3, 3, 8, 10), (1, 3, 1, 2, 2)):
        x = torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
        expected = {name: reference.encode(x)[0] for name, reference in references.items()}
        decoded = [reference.decode([expected[name]]) for name, reference in references.items()]
        encode, decode = (program.module(check_guards=False) for program in exported)
        for module in (encode, decode):
            module._forward_pre_hooks.clear()  # sizes of 1: see ExportedRuntime
        for theirs in (onnx.encode(x), encode(x)):
            for (name, reference), grid in zip(references.items(), theirs, strict=True):
                if contracts[name].discrete:
                    certain = reference.margins(x)[0] >= MARGIN
                    assert certain.float().mean() > 0.9
                    assert torch.equal(grid[certain], expected[name][certain]), name
                else:
                    torch.testing.assert_close(grid, expected[name], atol=1e-5, rtol=1e-5)
        for theirs in (onnx._run(onnx.decoder, [*expected.values()]), decode(*expected.values())):
            torch.testing.assert_close(list(theirs), decoded, atol=1e-5, rtol=0)


def test_golden_vectors_find_a_program_that_computes_something_else(exported, tmp_path):
    folder = tmp_path / "programs"
    shutil.copytree(exported("wetok", "gq", "onnx"), folder)
    golden = load_file(folder / "golden.safetensors")
    difference = load_programs(folder).check()
    assert difference.tokens == sum(ids.numel() for name, ids in golden.items() if name.endswith("/ids"))
    assert difference.pixels < 1e-5
    certain = golden["image/margins.ids"] > MARGIN
    golden["image/ids"][certain] += 1
    save_file(golden, folder / "golden.safetensors")
    with pytest.raises(SmaltiError, match="is not the file that was exported"):
        load_programs(folder)
    manifest = json.loads((folder / "programs.json").read_text())
    del manifest["files"]["golden.safetensors"]
    (folder / "programs.json").write_text(json.dumps(manifest))
    with pytest.raises(SmaltiError, match="do not reproduce their golden vectors"):
        load_programs(folder)


def test_onnx_files_have_named_inputs_and_symbolic_shapes(exported):
    import onnxruntime

    folder = exported("wetok", "gq", "onnx")
    session = onnxruntime.InferenceSession(str(folder / "encoder.onnx"), providers=["CPUExecutionProvider"])
    (pixels,), (ids,) = session.get_inputs(), session.get_outputs()
    assert (pixels.name, pixels.shape) == ("pixels", ["batch", 3, "1 + k", "2 * h", "2 * w"])
    assert (ids.name, ids.type, ids.shape) == ("ids", "tensor(int64)", ["batch", "1 + k", "h", "w", 2])


def test_onnx_programs_run_without_smalti_and_torch(exported):
    script = (
        "import sys, numpy, onnxruntime\n"
        "session = onnxruntime.InferenceSession(sys.argv[1])\n"
        "(ids,) = session.run(None, {'pixels': numpy.zeros((1, 3, 1, 6, 4), numpy.float32)})\n"
        "assert ids.shape == (1, 1, 3, 2, 2) and ids.dtype == numpy.int64\n"
        "assert 'torch' not in sys.modules and 'smalti' not in sys.modules\n"
    )
    file = exported("wetok", "gq", "onnx") / "encoder.onnx"
    subprocess.run([sys.executable, "-c", script, file], check=True)


def test_the_second_format_extends_the_folder_and_a_third_export_is_refused(exported, build, tmp_path):
    folder = tmp_path / "programs"
    shutil.copytree(exported("wetok", "gq", "onnx"), folder)
    tokenizer = build("wetok", "gq")
    save_programs(tokenizer, folder, "torch")
    assert {"encoder.onnx", "encoder.pt2", "golden.safetensors", "model.safetensors"} <= {
        f.name for f in folder.iterdir()
    }
    assert load_programs(folder, "torch").runtime.name == "torch.export"
    assert load_programs(folder, "onnx").runtime.name == "ONNX Runtime"
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(SmaltiError, match="already contains programs of this tokenizer in this format"):
        save_programs(tokenizer, folder, "torch")
    with pytest.raises(SmaltiError, match="already contains programs of another tokenizer"):
        save_programs(build("wetok", "kl"), folder, "torch")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    with pytest.raises(SmaltiError, match="no programs of the kind 'compiled'"):
        load_programs(folder, "compiled")


def test_a_failed_export_leaves_nothing(build, tmp_path, monkeypatch):
    def fail(*_):
        raise SmaltiError("no space")

    monkeypatch.setattr("smalti.export.programs.save.write_exported", fail)
    with pytest.raises(SmaltiError, match="no space"):
        save_programs(build("wetok", "gq"), tmp_path / "programs", "torch")
    assert list(tmp_path.iterdir()) == []


def test_a_program_that_computes_something_else_is_not_written(build, tmp_path, monkeypatch):
    def write_other(program, file):
        state = program.state_dict
        state["encoder.conv.weight" if file.name == "encoder.pt2" else "decoder.conv.weight"].neg_()
        write_exported(program, file)

    monkeypatch.setattr("smalti.export.programs.save.write_exported", write_other)
    with pytest.raises(
        SmaltiError, match=r"of torch\.export do not compute .* ids differ, with margins .* not written"
    ):
        save_programs(build("patches", "gq"), tmp_path / "programs", "torch")
    assert not list(tmp_path.iterdir())


def test_wrong_inputs_are_one_sentence(exported):
    programs = load_programs(exported("wetok", "gq", "onnx"), check=False)
    with pytest.raises(SmaltiError, match="takes floating-point pixels"):
        programs.encode(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    (ids,) = programs.encode(torch.zeros(1, 3, 8, 8))
    with pytest.raises(SmaltiError, match=r"has the shape \(1, 1, 8, 8, 2\), not \(1, 1, 4, 4, 2\)"):
        programs.decode([ids], (16, 16))
    with pytest.raises(SmaltiError, match="take 0 to 15"):
        programs.decode([ids + 16], (8, 8))


def test_damaged_folders_are_one_sentence(exported, tmp_path):
    folder = tmp_path / "programs"
    shutil.copytree(exported("wetok", "gq", "onnx"), folder)
    (folder / "decoder.onnx").write_bytes(b"damaged")
    with pytest.raises(SmaltiError, match="is not the file that was exported"):
        load_programs(folder)
    with pytest.raises(SmaltiError, match="cannot be loaded"):
        RUNTIMES["onnx"][1](folder)
    (folder / "decoder.onnx").unlink()
    with pytest.raises(SmaltiError, match="is missing"):
        load_programs(folder)
    (folder / "programs.json").write_text("{}")
    with pytest.raises(SmaltiError, match="is damaged"):
        load_programs(folder)
    with pytest.raises(SmaltiError, match=r"has no programs\.json"):
        load_programs(tmp_path)


@pytest.mark.slow
def test_compiled_programs(build, tmp_path):
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("AOTInductor needs a C++ compiler")
    # A causal network: a batch of one clip once had wrong ids. `save_programs` checks the golden vectors.
    save_programs(build("onevae", "gq"), tmp_path / "programs", "torch", compiled=True)
    assert load_programs(tmp_path / "programs").runtime.name == "AOTInductor"
