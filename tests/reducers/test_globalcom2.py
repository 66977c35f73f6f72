"""GlobalCom2: kept tokens stay in raster order of the image, also with padding."""

import torch

from smalti.reducers import GlobalCom2


def test_positions_are_in_raster_order_and_padding_is_dropped():
    torch.manual_seed(0)
    grid, crops = (8, 8), (1, 2)
    tokens = torch.arange(128.0).reshape(1, 128, 1)
    inputs = {
        "saliency": torch.rand(1, 128), "thumbnail_saliency": torch.rand(1, 64), "image_sizes": [(700, 300)],
        "newline": torch.tensor([-1.0]),
    }  # fmt: skip
    found = GlobalCom2(crops, 0.5).reduce(tokens, grid, **inputs).tokens[0, :, 0].long()
    rows, current = [], []
    for token in found.tolist():
        if token == -1:
            rows.append(current)
            current = []
        else:
            crop, inside = divmod(token, 64)
            current.append((inside // 8, crop * 8 + inside % 8))
    assert len(rows) == 8
    assert not current
    for index, row in enumerate(rows):
        assert all(y == index for y, _ in row)
        assert row == sorted(row)
    assert rows[0] == rows[7] == []  # 700 x 300 covers 6 of 8 rows
    published = GlobalCom2(crops, 0.5, upstream=True).reduce(tokens, grid, **inputs).tokens[0, :, 0].long()
    assert sorted(published.tolist()) == sorted(found.tolist())
    assert published.tolist() != found.tolist()


def test_more_is_kept_where_the_thumbnail_is_salient():
    thumbnail = torch.zeros(1, 6, 6)
    thumbnail[:, :3, :3] = 9.0
    selection = GlobalCom2((2, 2), 0.25).select(torch.rand(4, 36), thumbnail.flatten(), (6, 6), (500, 500))
    kept = [len(indices) for indices in selection.kept]
    assert kept[0] > max(kept[1:])
    torch.testing.assert_close(selection.scales.mean(), torch.tensor(0.25, dtype=torch.float64), rtol=1e-6, atol=0)
