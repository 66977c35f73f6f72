"""Binary codes of components: waves have the signs of the bits, and numbers are linear in them."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.tokenizers.bottlenecks.binary_code import CodedComponent, binary_start


@given(bits=st.integers(1, 5), seed=st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_the_signs_of_the_waves_are_the_binary_number_of_the_cell(bits, seed):
    generator = torch.Generator().manual_seed(seed)
    edges = torch.rand(2**bits - 1, generator=generator).add(0.1).cumsum(0)
    component = CodedComponent(index=0, first=3, edges=edges - edges.mean())
    c = torch.linspace(-8, 8, 4001)
    signs = component.waves(c) > 0
    cells = torch.bucketize(c, component.edges)
    places = 2 ** torch.arange(bits - 1, -1, -1)
    at_edge = (c[:, None] - component.edges).abs().min(1).values < 1e-4
    assert torch.equal((signs * places).sum(1)[~at_edge], cells[~at_edge])


def test_more_signs_than_components_can_use_are_constant():
    torch.manual_seed(0)
    code = binary_start(torch.randn(1024, 2), torch.tensor([1.0, 0.5]), channels=16, hidden_units=1000)
    target = code.target(torch.randn(5, 7, 2))
    assert target.shape == (5, 7, 16)
    assert (target[..., 10:] == 0).all()
