"""Reducers with learned queries: RoIAlign, locality, isolation."""

import pytest
import torch
from torch import nn
from torchvision.ops import roi_align

from smalti.reducers import M3, QueCC, SpatialResampler, VisToG, matryoshka_loss
from smalti.reducers.uhd_resampler import cell_boxes, cell_samplers, pooling_size, sample_cells


@pytest.mark.parametrize("grid", [(8, 8), (5, 9), (11, 4), (2, 3), (24, 24), (37, 16), (1, 1)])
@pytest.mark.parametrize("side", [2, 4, 5])
def test_samples_equal_roi_align(grid, side):
    tokens = torch.randn(2, grid[0] * grid[1], 3)
    rows, columns = cell_samplers(side, grid, tokens)
    ours = sample_cells(tokens, grid, rows, columns)
    maps = tokens.transpose(1, 2).unflatten(2, grid)
    boxes = cell_boxes(side, grid)
    expected = roi_align(maps, [boxes, boxes], pooling_size(grid))  # (B * cells, C, h, w)
    expected = expected.flatten(2).transpose(1, 2).unflatten(0, (2, -1))
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_a_query_reads_its_own_cell_only():
    torch.manual_seed(0)
    resampler = SpatialResampler(6, 8, 2, heads=1)
    quecc = QueCC(8, 8, 3, kernel=4)
    for module, channels in ((resampler, 6), (quecc, 8)):
        tokens = torch.randn(1, 64, channels)
        changed = tokens.clone()
        changed[:, 9] += 1  # in the first quarter
        difference = (module.reduce(tokens, (8, 8)).tokens - module.reduce(changed, (8, 8)).tokens).abs().sum(-1)[0]
        assert difference[0] > 1e-3
        assert not difference[1:].any()


def test_semantic_tokens_do_not_change_image_tokens():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True, norm_first=True)
    encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    vistog = VisToG(16, 5)
    patches = torch.randn(2, 36, 16)
    image, semantic = vistog.encode(patches, lambda x, mask: encoder(x, mask=~mask))
    torch.testing.assert_close(image, encoder(patches), rtol=1e-5, atol=1e-5)
    reduced = vistog.reduce(image, (6, 6), semantic=semantic)
    assert reduced.tokens.shape == (2, 5, 16)
    changed = patches.clone()
    changed[:, 0] = torch.randn(2, 16)  # adding a constant would change nothing: layers begin with a norm over channels
    _, other = vistog.encode(changed, lambda x, mask: encoder(x, mask=~mask))
    assert not torch.allclose(other, semantic)  # semantic tokens do see the image


def test_the_matryoshka_loss_is_the_mean_over_scales():
    tokens = torch.randn(2, 16, 4)
    losses = [M3(scale).reduce(tokens, (4, 4)).tokens.square().sum() for scale in (16, 4, 1)]
    found = matryoshka_loss(lambda reduced: reduced.tokens.square().sum(), tokens, (4, 4), [16, 4, 1])
    torch.testing.assert_close(found, torch.stack(losses).mean())
