"""Requirements that every bottleneck fulfills."""

import subprocess
import sys

import pytest
import torch

import smalti.tokenizers.bottlenecks as bottlenecks
from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks import (
    BSQ,
    FSQ,
    GQ,
    KL,
    VQ,
    Bottleneck,
    Joint,
    Projected,
    Quantizer,
    ResidualFSQ,
    ResidualVQ,
    SimVQ,
)
from smalti.tokenizers.configurable import from_config, get_config
from smalti.types import Code

BUILDERS = {
    "kl": lambda: KL(6),
    "kl_shared": lambda: KL(6, shared_log_variance=True),
    "fsq": lambda: FSQ([8, 5, 5, 5]),
    "fsq_tokens": lambda: FSQ(levels=[16, 2, 3], tokens_per_position=3),
    "gq": lambda: GQ(4, 8),
    "gq_published": lambda: GQ(2, 9, codebook_entropy="pooled", log_offset=1e-5),
    "bsq": lambda: BSQ(36),
    "bsq_groups": lambda: BSQ(5, groups=2, temperature=0.02),
    "vq": lambda: VQ(6, 40),
    "vq_cosine": lambda: VQ(6, 40, cosine=True, rotation_trick=True),
    "simvq": lambda: SimVQ(6, 40),
    "residual_vq": lambda: ResidualVQ(6, 3, 40),
    "residual_fsq": lambda: ResidualFSQ([8, 5, 5], 3),
}
QUANTIZERS = [name for name in BUILDERS if not name.startswith("kl")]


@pytest.fixture(params=BUILDERS)
def bottleneck(request):
    torch.manual_seed(0)
    return BUILDERS[request.param]()


@pytest.fixture(params=QUANTIZERS)
def quantizer(request):
    torch.manual_seed(0)
    return BUILDERS[request.param]()


def random_positions(bottleneck, count=64):
    return torch.randn(2, count, bottleneck.in_dim, generator=torch.Generator().manual_seed(1))


def test_losses_reach_the_input_in_training_and_are_absent_in_evaluation(bottleneck):
    h = random_positions(bottleneck).requires_grad_()
    code = bottleneck(h)
    assert code.z.shape == (2, 64, bottleneck.out_dim)
    assert code.losses.keys() == set(bottleneck.loss_names)
    assert all(loss.ndim == 0 and loss.isfinite() for loss in code.losses.values())
    (code.z.square().sum() + sum(code.losses.values())).backward()
    assert h.grad.isfinite().all()
    assert h.grad.abs().max() > 0
    assert bottleneck.eval()(h).losses == {}


def test_wrapping_bottlenecks_declare_the_losses_of_their_parts():
    assert Projected(GQ(2, 4), 6).loss_names == GQ.loss_names
    assert Joint(KL(6), Projected(VQ(3, 8), 6, in_dim=12)).loss_names == ("commitment", "kl")
    assert Joint(KL(6), Projected(FSQ([5, 5]), 6, in_dim=12)).loss_names == ("kl",)


def test_a_loss_that_is_not_declared_is_refused():
    class Undeclared(Bottleneck):
        in_dim = out_dim = 4
        loss_names = ("declared",)

        def quantize(self, h):
            return Code(h, losses={"declared": h.mean(), "size": h.abs().mean()} if self.training else {})

    bottleneck = Undeclared()
    with pytest.raises(SmaltiError, match=r"Undeclared returned the loss 'size'.*loss_names = \('declared', 'size'\)"):
        bottleneck(torch.zeros(1, 2, 4))
    bottleneck.eval()(torch.zeros(1, 2, 4))


def test_ids_are_in_range_and_lookup_returns_z_exactly(quantizer):
    code = quantizer.eval()(random_positions(quantizer))
    assert isinstance(quantizer, Quantizer)
    assert type(quantizer.codebook_size) is int
    assert code.ids.dtype == torch.int64
    assert code.ids.shape == (2, 64, quantizer.tokens_per_position)
    assert 0 <= code.ids.min() <= code.ids.max() < quantizer.codebook_size
    assert len(code.ids.unique()) > 1
    assert torch.equal(quantizer.lookup(code.ids), code.z)


def test_training_and_evaluation_return_the_same_ids(quantizer):
    h = random_positions(quantizer)
    expected = quantizer.eval()(h)
    code = quantizer.train()(h)
    assert torch.equal(code.ids, expected.ids)
    # In training mode, the rotation trick and residual sums add a few float32 rounding errors per operation.
    torch.testing.assert_close(code.z, expected.z, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_has_no_effect(quantizer, dtype):
    h = random_positions(quantizer)
    expected = quantizer.eval()(h)
    expected_of_half = quantizer(h.to(dtype).float())
    with torch.autocast("cpu", dtype=dtype):
        code, half = quantizer(h), quantizer(h.to(dtype))
        z = quantizer.lookup(code.ids)
    assert torch.equal(code.ids, expected.ids)
    assert torch.equal(half.ids, expected_of_half.ids)
    assert torch.equal(z, expected.z)
    assert z.dtype == torch.float32


def test_wrong_ids_and_channels_are_refused(quantizer):
    ids = torch.zeros(1, 2, quantizer.tokens_per_position, dtype=torch.int64)
    with pytest.raises(SmaltiError, match="The ids range from"):
        quantizer.lookup(ids + quantizer.codebook_size)
    with pytest.raises(SmaltiError, match="The ids range from"):
        quantizer.lookup(ids - 1)
    with pytest.raises(SmaltiError, match="tokens per position"):
        quantizer.lookup(torch.cat([ids, ids], dim=-1))
    with pytest.raises(ValueError, match="takes"):
        quantizer(torch.zeros(1, 2, quantizer.in_dim + 1))


def test_config_and_weights_rebuild_the_bottleneck_on_the_meta_device(bottleneck):
    config = get_config(bottleneck)
    with torch.device("meta"):
        again = from_config(config)
    again.load_state_dict(bottleneck.state_dict(), assign=True)
    assert get_config(again) == config
    h = random_positions(bottleneck)
    expected, code = bottleneck.eval()(h), again.eval()(h)
    assert torch.equal(code.z, expected.z)
    assert (code.ids is None and expected.ids is None) or torch.equal(code.ids, expected.ids)


def test_the_library_is_imported_only_for_its_adapters():
    program = (
        "import sys, smalti.tokenizers.bottlenecks as b\n"
        "foreign = {'vector_quantize_pytorch', 'einops', 'einx', 'lightning'}\n"
        "assert not foreign & set(sys.modules), foreign & set(sys.modules)\n"
        "b.VQ\n"
        "assert 'vector_quantize_pytorch' in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_all_public_names_exist_and_others_raise():
    assert all(hasattr(bottlenecks, name) for name in bottlenecks.__all__)
    with pytest.raises(AttributeError, match="LFQ"):
        _ = bottlenecks.LFQ


def test_ids_change_where_the_decision_margin_ends(quantizer):
    """Move each position along a line to another one: just before the id of a token changes, its margin is near 0."""
    quantizer.eval()
    start, end = random_positions(quantizer, 32), random_positions(quantizer, 32).flip(1)
    low, high = torch.zeros(2, 32, 1), torch.ones(2, 32, 1)
    first = quantizer(start).ids
    margin = quantizer.decision_margin(start)
    assert margin.shape == first.shape
    assert (margin >= 0).all()
    moves = (quantizer(end).ids != first).any(-1, keepdim=True)
    assert moves.float().mean() > 0.5
    for _ in range(30):
        middle = (low + high) / 2
        same = (quantizer(start + middle * (end - start)).ids == first).all(-1, keepdim=True)
        low, high = torch.where(same, middle, low), torch.where(same, high, middle)
    boundary = quantizer.decision_margin(start + low * (end - start)).amin(-1, keepdim=True)
    assert boundary[moves].max() < 1e-4 < margin.median()


def test_a_bottleneck_without_a_margin_excuses_no_difference():
    class Own(Quantizer):
        tokens_per_position = 2

        def quantize(self, h):
            raise NotImplementedError

        def dequantize(self, ids):
            raise NotImplementedError

    assert Own().decision_margin(torch.zeros(1, 3, 4)).tolist() == [[[float("inf")] * 2] * 3]
