"""How much information a code carries: parts of tokens and KL channels, counted over batches and merged over processes."""

import math

import pytest
import torch

from smalti.tokenizers.bottlenecks import BSQ, FSQ, GQ, KL, VQ, Joint, Projected
from smalti.trainers.health.code_usage import CodeUsage, count_code_usage, innermost_bottlenecks
from smalti.types import Code


def count(bottleneck, *batches):
    """Return the usage of one bottleneck over several batches (B, N, C)."""
    with torch.no_grad(), count_code_usage(bottleneck.eval()) as usages:
        for h in batches:
            bottleneck(h)
    return usages


def spread(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("quantizer", [FSQ([3, 8, 5], 2), GQ(2, 3), BSQ(6, 2), BSQ(128, token_bits=4)])
def test_parts_have_the_entropy_of_the_values_they_stand_for(quantizer):
    h = spread(8, 64, quantizer.in_dim)
    (usage,) = count(quantizer, h[:3], h[3:])
    z = quantizer(h).z.flatten(0, 1)  # one channel per part
    for channel, entropy in enumerate(usage.parts.entropies().flatten().tolist()):
        p = z[:, channel].unique(return_counts=True)[1] / len(z)
        assert entropy == pytest.approx(float(-(p * p.log2()).sum()), abs=1e-5)
    assert usage.parts.positions == len(z) == 512
    capacities = usage.parts.capacities()
    assert float(capacities.sum()) * quantizer.tokens_per_position == pytest.approx(quantizer.bits_per_position)


def test_constant_channels_have_no_entropy_and_their_most_frequent_value_is_everything():
    h = spread(4, 64, 4)
    h[..., 1] = -5.0
    (usage,) = count(GQ(2, 2), h)
    assert usage.parts.shares().amax(-1).tolist()[0][1] == 1.0
    assert usage.parts.entropies()[0, 1] == 0
    assert (usage.parts.entropies()[1] > 0.9).all()


def test_codewords_of_a_codebook_are_counted_one_by_one():
    (usage,) = count(VQ(4, 16), spread(2, 100, 4))
    assert usage.parts.kind == "codeword"
    assert usage.parts.counts.shape == (1, 1, 16)
    assert usage.parts.positions == 200


def test_a_codebook_that_cannot_be_counted_is_left_out():
    usage, quantizer = CodeUsage(), VQ(4, 16)
    quantizer.codebook_size = 2**30
    usage.update(quantizer, spread(1, 8, 4), Code(spread(1, 8, 4), torch.zeros(1, 8, 1, dtype=torch.int64)))
    assert usage.parts is None


@pytest.mark.parametrize("shared", [False, True])
def test_kl_channels_carry_the_capacity_of_a_gaussian_channel(shared):
    kl = KL(3, shared_log_variance=shared, initial_std=0.5)
    mean = spread(4, 500, 3) * torch.tensor([2.0, 0.0, 1e-3]) + torch.tensor([0.0, 3.0, 0.0])
    log_variance = torch.zeros(4, 500, kl.in_dim - 3)
    (usage,) = count(kl, torch.cat([mean, log_variance], dim=-1))
    information = usage.gaussian.information().tolist()
    assert information[0] == pytest.approx(math.log2(1 + 4 / 0.25) / 2, rel=0.02)
    assert information[1] < 1e-6  # a constant carries nothing, although its divergence is large
    assert usage.gaussian.divergences()[1] > 4
    assert information[2] < 0.01


def test_all_branches_and_inner_quantizers_are_counted_and_hooks_are_removed():
    joint = Joint(KL(4), Projected(FSQ([5, 5]), 4, in_dim=8)).eval()
    with torch.no_grad(), count_code_usage(joint) as usages:
        joint(spread(1, 300, 8))
        joint.continuous(spread(1, 300, 8))
    assert [usage.name for usage in usages] == ["discrete", "continuous"]
    assert usages[0].parts.sizes == [5, 5]
    assert usages[1].gaussian.positions == 300
    assert [type(inner) for inner in innermost_bottlenecks(joint.discrete)] == [FSQ]
    joint(spread(1, 300, 8))
    assert usages[0].parts.positions == 300


@pytest.mark.parametrize("bottleneck", [FSQ([4, 4]), KL(2)])
def test_processes_are_merged_to_what_one_process_counts(bottleneck):
    h = spread(6, 50, bottleneck.in_dim)
    (whole,) = count(bottleneck, h)
    (one,), (other,), (empty,) = count(bottleneck, h[:2]), count(bottleneck, h[2:]), count(bottleneck)
    merged = empty.to_cpu()
    merged.merge(one.to_cpu())
    merged.merge(other)
    merged.merge(CodeUsage())
    if whole.parts is not None:
        assert merged.parts.counts.equal(whole.parts.counts)
    else:
        torch.testing.assert_close(merged.gaussian.information(), whole.gaussian.information())
