"""The examples run, shortened."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from skimage import data
from transformers import AutoModelForCausalLM

from smalti.export.vocabulary.manifest_file import load_vocabulary
from smalti.tokenizers import wetok
from smalti.tokenizers.bottlenecks import GQ
from smalti.tokenizers.checkpoints import save

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("coffee", "rocket"):
        Image.fromarray(getattr(data, name)()).resize((96, 72)).save(folder / f"{name}.png")
    return folder


def test_an_image_model_trains_and_writes_samples(photos, tmp_path):
    torch.manual_seed(0)
    save(wetok(GQ(2, 4), stride=8, channels=8, blocks=1, groups=None), tmp_path / "tokenizer")
    out = tmp_path / "model"
    options = {
        "--tokenizer": tmp_path / "tokenizer", "--out": out, "--size": 32, "--crops": 2, "--steps": 30, "--width": 32,
        "--layers": 1, "--samples": 3,
    }  # fmt: skip
    words = [str(word) for pair in options.items() for word in pair]
    command = [sys.executable, EXAMPLES / "train_image_model.py", photos, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    vocabulary = load_vocabulary(out)
    assert vocabulary.codes.sizes == (16, 16)
    losses = json.loads((out / "loss.json").read_text())
    assert sum(losses[-5:]) < sum(losses[:5])
    with Image.open(out / "samples.png") as sheet:
        assert sheet.size == (3 * 64, 2 * 64)
    assert AutoModelForCausalLM.from_pretrained(out / "model").config.vocab_size == vocabulary.rows
