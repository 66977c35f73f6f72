"""A hundred thousand samples pass through in seconds: no work per sample is slow, and none is lost."""

import numpy as np
import torch
from PIL import Image

from smalti.__main__ import main
from smalti.data import ImageSource
from smalti.tokenization import TokenDataset
from smalti.tokenizers import wetok
from smalti.tokenizers.bottlenecks import GQ
from smalti.tokenizers.checkpoints import load, save

COUNT = 100_000
IMAGES = [Image.fromarray(np.full((4, 4, 3), level, np.uint8)) for level in range(256)]


class HundredThousand(ImageSource):
    """Images of 4 x 4 pixels, each of one gray level."""

    def __len__(self):
        return COUNT

    def __str__(self):
        return "a hundred thousand images"

    def name(self, index):
        return f"{index:06d}"

    def __getitem__(self, index):
        return IMAGES[index % 256]


def test_a_hundred_thousand_samples(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    save(wetok(GQ(1, 8), stride=2, channels=4, blocks=1, groups=None), tmp_path / "tokenizer")
    command = ["tokenize-dataset", "--tokenizer", "tokenizer", "--data", "HundredThousand", "--protocol", "native"]
    assert main([*command, "--format", "npy", "--out", "tokens", "--batch-size", "4096", "--workers", "0"]) == 0
    dataset = TokenDataset("tokens")
    assert len(dataset) == COUNT
    assert sum(marker.samples for marker in dataset.markers) == COUNT
    assert dataset.failures == []
    arrays = [np.load(tmp_path / "tokens" / f"{marker.name}.ids.npy") for marker in dataset.markers]
    pixels = torch.arange(256).reshape(-1, 1, 1, 1).expand(-1, 3, 4, 4) / 127.5 - 1
    expected = load("tokenizer").tokenize(pixels).ids.numpy()
    assert (np.concatenate(arrays) == expected[np.arange(COUNT) % 256]).all()
    assert dataset[77_777].key == "077777"
