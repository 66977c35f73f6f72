"""I3D is called as its published program requires."""

import warnings

import pytest
import torch
from torch import nn

from smalti.errors import SmaltiError
from smalti.eval import pretrained_weights
from smalti.eval.feature_networks.i3d import I3DNetwork
from smalti.eval.pretrained_weights import SOURCES, WeightsSource
from smalti.files import sha256
from smalti.pixels import uint8_to_pixels


class Program(nn.Module):
    """Has the interface of the published program: takes values in [0, 255], returns 400 logits per clip."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 1200).reshape(400, 3))

    def forward(
        self, x: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False
    ) -> torch.Tensor:
        assert x.dtype == torch.float32
        assert rescale
        assert resize
        assert return_features
        return (x / 127.5 - 1).mean(dim=(2, 3, 4)) @ self.weight.t()


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A file with another program, the published name, and a known SHA-256."""
    file = tmp_path / "i3d_torchscript.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates TorchScript, the only format of the published file
        torch.jit.script(Program()).save(str(file))
    monkeypatch.setattr(pretrained_weights, "_failures", {})
    monkeypatch.setitem(SOURCES, "i3d", WeightsSource("https://example.org/i3d_torchscript.pt?dl=1", sha256(file)))
    return file


def test_i3d_is_called_as_published(program, clips):
    network = I3DNetwork(program.parent)
    long = torch.cat([clips, clips], dim=2)
    expected = uint8_to_pixels(long).mean((2, 3, 4)) @ torch.linspace(-1, 1, 1200).reshape(400, 3).T
    torch.testing.assert_close(network(long), expected)
    assert (network.metric, network.comparable, network.min_frames) == ("rfvd", True, 10)
    assert network.provenance["sha256"] == sha256(program)
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())


def test_a_program_with_another_hash_is_never_run(program, monkeypatch):
    monkeypatch.setattr(torch.jit, "load", lambda *args, **kwargs: pytest.fail("it ran"))
    program.write_bytes(program.read_bytes() + b"\0")
    with pytest.raises(SmaltiError, match="damaged or a different file"):
        I3DNetwork(program)


def test_a_file_that_is_not_a_program_raises_an_error(program, monkeypatch):
    program.write_bytes(b"x")
    monkeypatch.setitem(SOURCES, "i3d", WeightsSource(SOURCES["i3d"].url, sha256(program)))
    with pytest.raises(SmaltiError, match="cannot be read as the I3D program"):
        I3DNetwork(program)
