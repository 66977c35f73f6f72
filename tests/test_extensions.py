"""Extensions from outside the package: losses, a discriminator, a bottleneck, networks, a metric, an importer, a source."""

import json
import sys
import textwrap

import pytest
import torch
import yaml
from safetensors.torch import save_file

import smalti
from smalti.__main__ import main
from smalti.tokenizers.checkpoints import save

EXTENSION = '''
"""A user's package, which smalti does not know."""

import torch
from skimage import data
from PIL import Image
from torch import nn

from smalti.data import ImageSource
from smalti.eval.metrics import SampleMetric
from smalti.tokenizers import Tokenizer
from smalti.tokenizers.base import Decoder, Encoder
from smalti.tokenizers.bottlenecks import Quantizer
from smalti.tokenizers.bottlenecks.base import straight_through
from smalti.tokenizers.importers import Family
from smalti.trainers import Discriminator, ReconstructionLoss
from smalti.types import Code


class EdgeLoss(ReconstructionLoss):
    """Mean absolute error of the horizontal differences."""

    def __init__(self, scale: float = 1.0):
        super().__init__()
        self.scale = scale

    def forward(self, reconstruction, original):
        return self.scale * (reconstruction.diff(dim=-1) - original.diff(dim=-1)).abs().mean()


class PlainLoss(nn.Module):
    """A loss without the base class."""

    def forward(self, reconstruction, original):
        return (reconstruction - original).abs().mean()


class PatchLogits(Discriminator):
    """One convolution per patch."""

    def __init__(self, in_channels: int = 3):
        super().__init__()
        self.in_channels = in_channels
        self.conv = nn.Conv2d(in_channels, 1, 4, 4)

    def forward(self, x):
        return self.conv(x)


class MaxError(SampleMetric):
    """Largest absolute error of a pixel, in 8-bit levels."""

    name = "max_error"
    higher_is_better = False
    range = (0.0, 255.0)
    comparable = False
    definition = "largest absolute error of a pixel, in 8-bit levels"

    def measure(self, original, candidate):
        return (original.int() - candidate.int()).abs().flatten(1).amax(1).double()


class Rounding(Quantizer):
    """Rounds each channel to -1, 0 or 1."""

    loss_names = ("rounding_error",)

    def __init__(self, channels: int):
        super().__init__()
        self.in_dim = self.out_dim = self.tokens_per_position = channels
        self.codebook_size = 3

    def quantize(self, h):
        bounded = h.tanh()
        rounded = bounded.round()
        losses = {"rounding_error": (bounded - rounded).square().mean()} if self.training else {}
        return Code(straight_through(bounded, rounded), (rounded + 1).long(), losses)

    def dequantize(self, ids):
        return ids.float() - 1


class SilentRounding(Rounding):
    """Does not declare its loss."""

    loss_names = ()


class PatchEncoder(Encoder):
    """One convolution per patch and frame."""

    def __init__(self, out_dim: int, patch: int = 4):
        super().__init__()
        self.out_dim, self.stride = out_dim, (1, patch, patch)
        self.conv = nn.Conv3d(3, out_dim, self.stride, self.stride)

    def forward(self, x, state=None):
        return (self.conv(x),)


class PatchDecoder(Decoder):
    """One transposed convolution per patch and frame."""

    def __init__(self, in_dim: int, patch: int = 4):
        super().__init__()
        self.in_dim = in_dim
        self.conv = nn.ConvTranspose3d(in_dim, 3, (1, patch, patch), (1, patch, patch))

    @property
    def last_layer(self):
        return self.conv

    def forward(self, latents, generator=None, state=None):
        return self.conv(latents[0])


class Cats(ImageSource):
    """Tiles of a photo of a cat."""

    def __init__(self, size: int = 64):
        self.size = int(size)
        self.photo = Image.fromarray(data.chelsea())

    def __len__(self):
        return 6

    def __getitem__(self, index):
        left, top = index % 3 * 100, index // 3 * 100
        return self.photo.crop((left, top, left + self.size, top + self.size))

    def name(self, index):
        return f"cat-{index}"

    def __str__(self):
        return "cats"


def build(config):
    return Tokenizer(PatchEncoder(config["width"]), Rounding(config["width"]), PatchDecoder(config["width"]))


FAMILY = Family(
    name="toy",
    description="the models of this file",
    build=build,
    keys=lambda tokenizer: {name: f"net.{name}" for name in tokenizer.state_dict()},
)
'''

RECIPE = {
    "trainer": {
        "accelerator": "cpu", "max_steps": 2, "log_every_n_steps": 1, "val_check_interval": 1,
        "check_val_every_n_epoch": None, "num_sanity_val_steps": 0, "enable_model_summary": False,
        "logger": {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "runs", "name": ""}},
    },
    "model": {
        "tokenizer": {
            "class_path": "smalti.Tokenizer",
            "init_args": {
                "encoder": {"class_path": "toy_suite.PatchEncoder", "init_args": {"out_dim": 5}},
                "bottleneck": {"class_path": "toy_suite.Rounding", "init_args": {"channels": 5}},
                "decoder": {"class_path": "toy_suite.PatchDecoder", "init_args": {"in_dim": 5}},
            },
        },
        "losses": {"edges": {"class_path": "toy_suite.EdgeLoss", "init_args": {"scale": 0.5}}},
        "weights": {"l1": 1.0, "edges": 2.0, "rounding_error": 0.1},
    },
    "data": {
        "class_path": "smalti.data.ImageData",
        "init_args": {
            "train": {"class_path": "toy_suite.Cats"},
            "validation": {"class_path": "toy_suite.Cats", "init_args": {"size": 32}},
            "size": 32, "batch_size": 2, "workers": 0,
        },
    },
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a folder with a user's package and recipe. It is the working directory."""
    (tmp_path / "toy_suite.py").write_text(textwrap.dedent(EXTENSION))
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(RECIPE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "argv", ["smalti"])
    monkeypatch.setenv("SMALTI_IMPORT", "")
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("toy_suite", None)


def test_a_recipe_with_the_users_classes_trains_and_is_evaluated(folder):
    assert main(["fit", "-c", "toy.yaml"]) == 0
    header, *_ = (folder / "runs" / "version_0" / "metrics.csv").read_text().splitlines()
    assert {"train/edges", "val/edges", "train/rounding_error", "val/psnr"} <= set(header.split(","))
    checkpoint = "runs/version_0/checkpoints/last.ckpt"
    options = ["--tokenizer", checkpoint, "--data", "toy_suite.Cats:48", "--protocol", "native", "--rivals", "none"]
    assert main(["evaluate", *options, "--metric", "toy_suite.MaxError", "--out", "report"]) == 0
    report = json.loads((folder / "report" / "metrics.json").read_text())
    assert report["samples"] == 6
    assert 0 < report["metrics"]["max_error"]["value"] <= 255
    assert not report["metrics"]["max_error"]["comparable"]
    assert "8-bit levels" in report["definitions"]["max_error"]
    assert report["baseline"]["metrics"]["max_error"]["value"] > 0
    assert "max_error" in (folder / "report" / "per_sample.csv").read_text().splitlines()[0]


def test_losses_and_a_discriminator_are_added_on_the_command_line(folder, capsys):
    options = ["--model.losses.sharp", "toy_suite.EdgeLoss", "--model.weights.sharp", "0.5"]
    options += ["--model.losses.perceptual", "PerceptualLoss", "--model.losses.perceptual.network", "efflite0"]
    options += ["--model.weights.perceptual", "0.1"]
    options += ["--model.gan", "GANLoss", "--model.gan.discriminator", "toy_suite.PatchLogits"]
    assert main(["fit", "-c", "toy.yaml", *options, "--model.weights.adversarial", "0.1"]) == 0
    header, *_ = (folder / "runs" / "version_0" / "metrics.csv").read_text().splitlines()
    assert {"train/edges", "train/sharp", "train/perceptual", "train/adversarial"} <= set(header.split(","))
    config = yaml.safe_load((folder / "runs" / "version_0" / "config.yaml").read_text())["model"]
    assert config["losses"].keys() == {"edges", "sharp", "perceptual"}
    assert config["weights"] == RECIPE["model"]["weights"] | {"sharp": 0.5, "perceptual": 0.1, "adversarial": 0.1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--model.losses.plain", "toy_suite.PlainLoss"],
            "model.losses: toy_suite.PlainLoss is not a Loss. Derive it from smalti.trainers.Loss.",
        ),
        (
            ["--model.gan", "GANLoss", "--model.gan.discriminator", "toy_suite.PlainLoss"],
            "toy_suite.PlainLoss is not a Discriminator. Derive it from smalti.trainers.Discriminator.",
        ),
        (["--model.losses.edges", "toy_suite.NoLoss"], "NoLoss"),
        (["--model.frozen", "[encodr]"], "encoder"),
        (["--model.weights.edgse", "1.0"], "did you mean 'edges'?"),
        (
            ["-c", "silent.yaml"],
            "SilentRounding returned the loss 'rounding_error', which it does not declare: set loss_names = "
            "('rounding_error',) in the class.",
        ),
    ],
)
def test_the_users_mistakes_are_explained_in_one_sentence(folder, capsys, options, message):
    bottleneck = {"class_path": "toy_suite.SilentRounding", "init_args": {"channels": 5}}
    silent = {"tokenizer": {"init_args": {"bottleneck": bottleneck}}, "weights": {"rounding_error": None}}
    (folder / "silent.yaml").write_text(yaml.safe_dump({"model": silent}))
    assert main(["fit", "-c", "toy.yaml", *options]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error


def test_the_users_importer_imports_a_published_checkpoint(folder):
    import toy_suite

    theirs = toy_suite.build({"width": 3})
    save_file({f"net.{name}": weight for name, weight in theirs.state_dict().items()}, folder / "theirs.safetensors")
    (folder / "theirs.yaml").write_text("width: 3\n")
    command = ["import", "toy_suite.FAMILY", "theirs.safetensors", "--config", "theirs.yaml", "-o", "ours"]
    assert main(command) == 0
    ours = smalti.load("ours")
    assert all(torch.equal(weight, theirs.state_dict()[name]) for name, weight in ours.state_dict().items())


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["evaluate", "--data", "nowhere.Cats", "--tokenizer", "x", "-o", "y"], "nowhere"),
        (["evaluate", "--data", "toy_suite.Dogs", "--tokenizer", "x", "-o", "y"], "toy_suite.Dogs"),
        (
            ["evaluate", "--data", "toy_suite.Cats", "--metric", "toy_suite.EdgeLoss", "--tokenizer", "x", "-o", "y"],
            "EdgeLoss",
        ),
        (["import", "toy_suite.Rounding", "x.ckpt", "--config", "toy.yaml", "-o", "y"], "toy_suite.Rounding"),
    ],
)
def test_an_error_names_the_object_that_cannot_be_used(folder, capsys, command, name):
    import toy_suite

    save(toy_suite.build({"width": 3}), folder / "x")
    (folder / "x.ckpt").touch()
    assert main(command) == 2
    message = capsys.readouterr().err.strip().splitlines()
    assert len(message) == 1
    assert name in message[0]


def test_a_tokenizer_with_the_users_classes_is_exported_and_used(folder, capsys, monkeypatch):
    """Loading a tokenizer never imports the user's package. The option `--import` and SMALTI_IMPORT do."""
    assert main(["fit", "-c", "toy.yaml"]) == 0
    checkpoint = "runs/version_0/checkpoints/last.ckpt"
    sys.modules.pop("toy_suite")
    assert main(["export", checkpoint, "-o", "exported"]) == 2
    assert "--import toy_suite" in capsys.readouterr().err
    assert "toy_suite" not in sys.modules
    assert main(["export", checkpoint, "-o", "exported", "--import", "toy_suite"]) == 0
    import toy_suite

    toy_suite.Cats().photo.save("cat.png")
    codewords = smalti.load("exported").quantizer.lookup(torch.zeros(1, 1, 5, dtype=torch.int64))
    assert torch.equal(codewords, -torch.ones(1, 1, 5))
    sys.modules.pop("toy_suite")
    monkeypatch.setenv("SMALTI_IMPORT", "")  # a command sets it for the processes that it starts
    evaluate = ["evaluate", "--tokenizer", "exported", "--data", "cat.png", "--protocol", "native", "-o", "report"]
    evaluate += ["--rivals", "none"]
    assert main(evaluate) == 2
    assert "--import toy_suite" in capsys.readouterr().err
    assert main([*evaluate, "--import", "toy_suite"]) == 0
    sys.modules.pop("toy_suite")
    monkeypatch.setenv("SMALTI_IMPORT", "toy_suite")
    assert main(["reconstruct", "cat.png", "-o", "again.png", "--tokenizer", "exported"]) == 0
    assert (folder / "again.png").exists()
    sys.modules.pop("toy_suite")
    assert main(["tokenize", "cat.png", "-o", "cat.safetensors", "--tokenizer", "exported"]) == 0
    assert capsys.readouterr().out.endswith("--out decoded.png --import toy_suite\n")
    sys.modules.pop("toy_suite")
    assert main(["detokenize", "cat.safetensors", "-o", "decoded.png", "--import", "toy_suite"]) == 0
    assert (folder / "decoded.png").read_bytes() == (folder / "again.png").read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--import", "nowhere_at_all"], "nowhere_at_all"), (["--import"], "--import"), (["--import=broken"], "broken")],
)
def test_an_error_names_the_module_that_cannot_be_imported(folder, capsys, options, message):
    (folder / "broken.py").write_text("raise RuntimeError('it broke.')")
    assert main(["recipes", *options]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert message in error[0]
