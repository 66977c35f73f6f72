"""The diagonal Gaussian: its divergence equals torch.distributions, sampling, clamping of log-variances."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks import KL


def random_input(dim, shared, positions=11):
    generator = torch.Generator().manual_seed(dim)
    return torch.randn(3, positions, dim + 1 if shared else 2 * dim, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("shared", [False, True])
def test_the_divergence_equals_torch_distributions(shared):
    h = random_input(5, shared)
    mean, log_variance = h[..., :5], h[..., 5:]  # a shared log-variance broadcasts
    posterior = Normal(mean, (log_variance.expand_as(mean) / 2).exp())
    expected = kl_divergence(posterior, Normal(0.0, 1.0)).sum(dim=-1).mean()

    torch.testing.assert_close(KL(5, shared)(h).losses["kl"], expected)


@pytest.mark.parametrize("shared", [False, True])
def test_evaluation_returns_the_mean_and_training_samples_around_it(shared):
    bottleneck = KL(2, shared)
    h = random_input(2, shared, positions=1).expand(3, 20_000, -1)
    assert torch.equal(bottleneck.eval()(h).z, h[..., :2])

    torch.manual_seed(0)
    z = bottleneck.train()(h).z

    torch.testing.assert_close(z.mean(dim=1), h[:, 0, :2], rtol=0, atol=0.1)
    expected = (h[:, 0, 2:] / 2).exp().expand(3, 2)
    torch.testing.assert_close(z.std(dim=1), expected, rtol=0.03, atol=0)


def test_initial_std_scales_the_noise_only():
    h = torch.zeros(1, 20_000, 2, dtype=torch.float64)
    torch.manual_seed(0)
    z = KL(1, initial_std=0.25)(h).z
    assert z.std().item() == pytest.approx(0.25, rel=0.03)
    with pytest.raises(SmaltiError, match="initial_std"):
        KL(1, initial_std=0.0)


def test_the_loss_does_not_depend_on_the_resolution():
    h = random_input(4, shared=False)
    once, tiled = KL(4)(h).losses["kl"], KL(4)(h.repeat(1, 9, 1)).losses["kl"]
    torch.testing.assert_close(once, tiled)


def test_extreme_log_variances_stay_finite():
    h = torch.tensor([0.5, 1e4, 0.5, -1e4]).view(1, 2, 2).requires_grad_()
    code = KL(1)(h)
    (code.z.sum() + code.losses["kl"]).backward()
    assert code.z.isfinite().all()
    assert h.grad.isfinite().all()


def test_zero_channels_are_refused():
    with pytest.raises(SmaltiError, match="at least one channel"):
        KL(0)


def test_the_weight_of_latent_diffusion_converts_as_the_docstring_says():
    """Both objectives have the same ratio of KL to reconstruction, for an image of 32 x 32 pixels and a stride of 8."""
    torch.manual_seed(0)
    h, error, weight = torch.randn(1, 16, 8), torch.rand(1, 3, 32, 32), 1e-6
    ours = KL(4).train()(h).losses["kl"] * weight / (3 * 8**2) / error.mean()
    mean, log_variance = h.chunk(2, dim=-1)
    summed = (mean.square() + log_variance.exp() - 1 - log_variance).sum() / 2
    torch.testing.assert_close(ours, weight * summed / error.sum())
