"""Values of cells that are no linear function of their numbers: a residual block restores them."""

import torch

from smalti.tokenizers.bottlenecks.binary_code import binary_start
from smalti.tokenizers.linear_start.code import Readout
from smalti.tokenizers.linear_start.least_squares import fit_convolution
from smalti.tokenizers.linear_start.level_table import LevelTable
from smalti.tokenizers.models.wetok import WeTokDecoder


def random_cells(positions: int, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the numbers of random cells (1, 1, positions, 8), and their bits as signs (1, bits, positions, 8)."""
    number = torch.randint(2**bits, (1, 1, positions, 8), generator=torch.Generator().manual_seed(0))
    shifts = torch.arange(bits - 1, -1, -1).view(1, -1, 1, 1)
    return number, 2.0 * (number >> shifts & 1) - 1


def test_the_block_restores_unequal_distances_that_a_convolution_cannot():
    bits = 3
    number, codewords = random_cells(256, bits)
    values = torch.tensor([-9.0, -4.0, -1.5, -0.5, 0.5, 1.5, 4.0, 9.0])
    targets = [values[number]]
    decoder = WeTokDecoder(bits, channels=16, multipliers=[1, 1], blocks=1, groups=None)
    linear = fit_convolution(decoder.conv_in, [codewords], targets)
    readout = Readout(torch.tensor([[4.0, 2.0, 1.0]]) / 7, (torch.linspace(-1, 1, 8),))
    table = LevelTable(readout, width=16)
    error = table.fit(decoder.conv_in, decoder.middle[0], [codewords], targets)
    assert linear > 0.03
    assert error < 1e-4
    restored = decoder.middle(decoder.conv_in(codewords))[:, :1]
    torch.testing.assert_close(restored, targets[0], atol=0.05, rtol=0)  # ramps are not exactly linear


def test_the_numbers_of_a_binary_code_are_ordered_like_the_coefficients():
    torch.manual_seed(0)
    coefficients = torch.randn(4096, 3)
    code = binary_start(coefficients, torch.tensor([1.0, 0.5, 0.25]), channels=9, hidden_units=200)
    assert code.readout is not None
    signs = torch.where(code.target(coefficients) > 0, 1.0, -1.0)
    numbers = signs @ code.readout.matrix.T
    for index, values in enumerate(code.readout.values):
        order = coefficients[:, index].argsort()
        assert (numbers[order, index].diff() > -1e-5).float().mean() > 0.999  # a coefficient can lie on an edge
        assert ((numbers[:, index, None] - values).abs().min(1).values < 1e-5).all()
