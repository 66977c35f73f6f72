"""Losses of groups of channels; losses that know colors get red, green and blue only."""

import pytest
import torch
from torch import nn

from smalti.errors import SmaltiError
from smalti.tokenizers import wetok, with_channels
from smalti.tokenizers.bottlenecks import KL
from smalti.trainers import GANLoss, PatchDiscriminator, TokenizerTraining
from smalti.trainers.losses import ReconstructionLoss
from smalti.trainers.losses.reconstruction import reconstruction_loss_names, reconstruction_losses
from smalti.trainers.validation_metrics import sample_metrics

GROUPS = {"nir": 1, "rgb": 3, "swir": 2}


def pair(*shape):
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.rand(shape, generator=generator) * 2 - 1 for _ in range(2))


class Recorded(ReconstructionLoss):
    """Keeps what it gets."""

    def forward(self, reconstruction, original):
        self.seen = (reconstruction, original)
        return (reconstruction - original).abs().mean()


class AllChannels(Recorded):
    all_channels = True


def build(channels, **arguments):
    torch.manual_seed(0)
    tokenizer = with_channels(wetok(KL(4), stride=4, channels=8, blocks=1, groups=None), channels)
    return TokenizerTraining(tokenizer, **{"weights": {"l1": 1.0}, **arguments})


@pytest.mark.parametrize("shape", [(2, 6, 8, 8), (2, 6, 3, 8, 8)])
def test_each_group_has_its_losses(shape):
    x, y = pair(*shape)
    losses = reconstruction_losses(x, y, groups=GROUPS)
    assert tuple(losses) == reconstruction_loss_names(nn.ModuleDict(), GROUPS)
    torch.testing.assert_close(losses["l1_swir"], (x[:, 4:] - y[:, 4:]).abs().mean())
    torch.testing.assert_close(losses["mse_rgb"], (x[:, 1:4] - y[:, 1:4]).square().mean())
    weighted = (losses["l1_nir"] + 3 * losses["l1_rgb"] + 2 * losses["l1_swir"]) / 6
    torch.testing.assert_close(losses["l1"], weighted)
    assert set(reconstruction_losses(x[:, :3], y[:, :3])) == {"l1", "mse"}  # as before
    metrics = sample_metrics(x, y, groups=GROUPS)
    assert {"psnr", "psnr_nir", "psnr_rgb", "psnr_swir"} <= metrics.keys()
    frames = (x[:, :1] - y[:, :1]).double().square().transpose(1, 2).flatten(2) if x.ndim == 5 else None
    mse = (x[:, 0] - y[:, 0]).double().square().flatten(1).mean(1, keepdim=True) if frames is None else frames.mean(2)
    torch.testing.assert_close(metrics["psnr_nir"], (10 * (4 / mse).log10()).mean(1))


def test_losses_of_a_recipe_get_colors_unless_they_take_all_channels():
    losses = {"colors": Recorded(), "bands": AllChannels()}
    x, y = pair(1, 6, 8, 8)
    reconstruction_losses(x, y, nn.ModuleDict(losses), GROUPS)
    assert torch.equal(losses["colors"].seen[1], y[:, 1:4])
    assert torch.equal(losses["bands"].seen[1], y)


def test_a_step_trains_all_groups_and_the_discriminator_sees_colors():
    gan = GANLoss(PatchDiscriminator(channels=4, layers=1))
    training = build(GROUPS, gan=gan, weights={"l1_nir": 1.0, "l1_rgb": 0.5, "adversarial": 0.1})
    seen = []
    gan.discriminator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    x, _ = pair(2, 6, 16, 16)
    losses, _ = training.compute_losses(training.tokenizer, x, with_gan=True)
    sum(losses[name] * weight for name, weight in training.weights.items()).backward()
    assert set(seen) == {3}
    gradient = training.tokenizer.decoder.last_layer.weight.grad.flatten(1).norm(dim=1)
    assert (gradient[:4] > 0).all()
    assert not gradient[4:].any()  # swir has no weight


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"losses": {"mine": Recorded()}}, "The loss 'mine' needs red, green and blue, but .* depth 1: remove it"),
        ({"gan": GANLoss(PatchDiscriminator(channels=4))}, "The discriminator needs red, green and blue"),
        ({"weights": {"l1_nir": 1.0}}, "l1_nir"),
        (
            {"frozen": ["encoder"], "channels": {"rgb": 3, "depth": 1}},
            "does not read the channels depth, and it is frozen",
        ),
    ],
)
def test_what_cannot_work_is_one_sentence(arguments, message):
    arguments = dict(arguments)
    with pytest.raises(SmaltiError, match=message) as error:
        build(arguments.pop("channels", {"depth": 1}), **arguments)
    assert "\n" not in str(error.value)


def test_gray_reads_every_channel_and_may_be_frozen():
    assert build({"depth": 1}, frozen=["encoder"]).frozen == ["encoder"]
    assert build({"depth": 1}, losses={"mine": AllChannels()}).loss_names.reconstruction == ("l1", "mse", "mine")
