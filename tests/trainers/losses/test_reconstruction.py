"""The dictionary of losses: built-in losses, losses of a recipe, and invalid names and values."""

import pytest
import torch
from torch import nn

from smalti.errors import SmaltiError
from smalti.trainers import ReconstructionLoss, WaveletLoss
from smalti.trainers.losses.reconstruction import build_loss_dict, compute_losses, reconstruction_losses


class Constant(ReconstructionLoss):
    """A loss that returns a given value."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, reconstruction, original):
        return self.value


def test_losses_of_the_recipe_are_added(clip):
    losses = build_loss_dict({"wavelet": WaveletLoss()})
    assert reconstruction_losses(clip * 0.9, clip, losses).keys() == {"l1", "mse", "wavelet"}
    assert reconstruction_losses(clip * 0.9, clip).keys() == {"l1", "mse"}


def test_losses_see_reconstruction_and_original_in_float32(clip):
    seen = []

    class Spy(ReconstructionLoss):
        def forward(self, reconstruction, original):
            seen.append((reconstruction, original))
            return reconstruction.mean()

    reconstruction_losses(clip.bfloat16() * 0.5, clip, build_loss_dict({"spy": Spy()}))
    assert torch.equal(seen[0][0], (clip.bfloat16() * 0.5).float())
    assert seen[0][1] is clip


def test_losses_are_frozen(toy_loss):
    losses = build_loss_dict({"features": toy_loss()})
    assert list(losses.parameters())
    assert not any(p.requires_grad for p in losses.parameters())


@pytest.mark.parametrize("name", ["l1", "mse", "adversarial", "discriminator", "lecam", "loss", "psnr"])
def test_builtin_names_are_refused(name):
    with pytest.raises(SmaltiError, match=f"'{name}', which is a built-in name"):
        build_loss_dict({name: Constant(torch.zeros(()))})


@pytest.mark.parametrize("name", ["", "a.b", "keys", "training"])
def test_names_that_pytorch_does_not_allow_are_refused(name):
    with pytest.raises(SmaltiError, match="which PyTorch does not allow"):
        build_loss_dict({name: Constant(torch.zeros(()))})


def test_loss_names_of_the_bottleneck_are_refused():
    with pytest.raises(SmaltiError, match="'kl', but the bottleneck"):
        build_loss_dict({"kl": Constant(torch.zeros(()))}, ("kl",))
    with pytest.raises(SmaltiError, match="The bottleneck has a loss 'psnr'"):
        build_loss_dict({}, ("psnr",))


def test_a_plain_module_is_accepted_in_python(clip):
    class Plain(nn.Module):
        def forward(self, reconstruction, original):
            return (reconstruction - original).abs().amax()

    losses = build_loss_dict({"largest": Plain()})
    assert reconstruction_losses(clip + 1, clip, losses)["largest"] == pytest.approx(1)


@pytest.mark.parametrize(("value", "culprit"), [(torch.zeros(2), r"shape \(2,\)"), (0.5, "float")])
def test_a_loss_must_return_a_scalar(clip, value, culprit):
    with pytest.raises(SmaltiError, match=f"'odd' returned.*{culprit}.*Constant"):
        compute_losses(nn.ModuleDict({"odd": Constant(value)}), clip, clip)
