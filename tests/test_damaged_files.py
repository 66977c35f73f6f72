"""Readers of Smalti's own files read damaged files or raise an error for users: a small fuzzer with a fixed seed."""

import contextlib
import io
import json
import random
import shutil
import tarfile
from pathlib import Path

import pytest
import torch

import smalti
from smalti.cli.recipes import load_recipes
from smalti.data import Shards, folder_index
from smalti.errors import SmaltiError
from smalti.eval.comparison import read_report
from smalti.eval.comparison_page import comparison_page
from smalti.eval.comparison_rows import compare as compare_reports
from smalti.eval.comparison_table import metrics_table, rivals_table
from smalti.export.token_files import load_tokens
from smalti.images import write_image

FIXTURES = Path(__file__).parent / "fixtures" / "v0.1"
WRONG = [None, True, -1, 2**70, float("nan"), "", "x", [], {}, [1], {"class_path": 1}]


def damage(data: bytes, rng: random.Random) -> bytes:
    """Truncate data, or change up to 10 bytes."""
    if rng.random() < 0.2:
        return data[: rng.randrange(len(data))]
    changed = bytearray(data)
    for _ in range(rng.choice((1, 3, 10))):
        changed[rng.randrange(rng.choice((len(data), min(len(data), 600))))] = rng.randrange(256)
    return bytes(changed)


def damage_json(data: bytes, rng: random.Random) -> bytes:
    """Replace or remove a random value."""
    content = node = json.loads(data)
    while True:
        key = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
        if not (isinstance(node[key], dict | list) and node[key]) or rng.random() < 0.25:
            break
        node = node[key]
    if rng.random() < 0.3:
        del node[key]
    else:
        node[key] = rng.choice(WRONG)
    return json.dumps(content).encode()


def test_damaged_exports(tmp_path):
    folder = shutil.copytree(FIXTURES / "wetok", tmp_path / "export")
    for change, count in ((damage_json, 40), (damage, 10)):
        check_damaged(folder / "config.json", change, count, lambda: smalti.load(folder))
    check_damaged(folder / "model.safetensors", damage, 10, lambda: smalti.load(folder))


def test_damaged_token_files(tmp_path):
    file = Path(shutil.copy(FIXTURES / "tokens.safetensors", tmp_path))
    check_damaged(file, damage, 100, lambda: load_tokens(file))


def test_damaged_checkpoints(tmp_path):
    file = Path(shutil.copy(next((FIXTURES / "run").rglob("*.ckpt")), tmp_path))
    check_damaged(file, damage, 15, lambda: smalti.load(file))


def test_damaged_recipes(tmp_path):
    file = tmp_path / "recipe.yaml"
    (recipe,) = Path(smalti.__file__).parents[1].glob("configs/quickstart.yaml")
    file.write_bytes(recipe.read_bytes())
    check_damaged(file, damage, 40, lambda: load_recipes(file))
    file.write_bytes(json.dumps(load_recipes(recipe)).encode())
    check_damaged(file, damage_json, 40, lambda: load_recipes(file))


def test_damaged_reports(tmp_path):
    metric = {"value": 20.5, "higher_is_better": True}
    content = {
        "samples": 2, "samples_sha256": "a", "metrics": {"psnr": metric}, "networks": {"lpips": {"sha256": "b"}},
        "protocol": {"name": "square64"}, "data": {"source": "photos"},
        "codebook": {"bits_per_pixel": 0.5, "groups": [{"used": 3}], "definitions": {"used": "number"}},
        "bits": {"bits_per_pixel": 0.5, "counting": "tokens"}, "definitions": {"psnr": "dB"},
        "baseline": {"method": "bicubic", "bits_per_pixel": 0.4, "metrics": {"psnr": {"value": 19.0}}},
        "rivals": {"jpeg": {"description": "", "bits_per_pixel": 0.5, "equal": "bytes",
                            "metrics": {"psnr": {"value": 19.0}}, "curve": [{"bits_per_pixel": 0.5, "psnr": 19.0}]}},
        "pictures": [{"name": "a", "original": "images/a.png", "reconstruction": "images/b.png", "frames": 1}],
    }  # fmt: skip
    for name in "ab":
        write_image(tmp_path / "images" / f"{name}.png", torch.zeros(3, 16, 16, dtype=torch.uint8))
    (tmp_path / "metrics.json").write_text(json.dumps(content))
    (tmp_path / "per_sample.csv").write_text("name,psnr\na,20\nb,21\n")
    good = read_report(tmp_path)

    def compare():
        comparison = compare_reports([good, read_report(tmp_path)])
        metrics_table(comparison)
        rivals_table(comparison)
        comparison_page(comparison)

    compare()
    check_damaged(tmp_path / "metrics.json", damage_json, 150, compare)
    check_damaged(tmp_path / "metrics.json", damage, 40, compare)
    check_damaged(tmp_path / "per_sample.csv", damage, 20, compare)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_damaged_shards(tmp_path, mode):
    file = tmp_path / "0.tar"
    with tarfile.open(file, mode) as tar:
        for index in range(4):
            info = tarfile.TarInfo(f"{'long/' * 30 * (index == 2)}{index}.jpg")
            info.size = 700
            tar.addfile(info, io.BytesIO(bytes(700)))

    def read():
        shards = Shards(str(file))
        shards.contains_samples()
        assert len(list(shards)) >= shards.count_samples()
        for segment in shards.deal(1, 2):
            list(shards.read_segment(segment, 1))

    check_damaged(file, damage, 60, read)


def test_damaged_folder_indexes(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(folder_index, "MIN_FILES", 1)
    monkeypatch.setattr(folder_index, "_SETTLED", 0.0)
    root = tmp_path / "photos"
    root.mkdir()
    (root / "a.jpg").touch()
    (root / "b.png").touch()
    folder_index.index_folder(root)
    (file,) = (tmp_path / "cache").rglob("*.safetensors")

    def read():
        assert list(folder_index.index_folder(root).images) == [root / "a.jpg", root / "b.png"]

    check_damaged(file, damage, 25, read)


def check_damaged(file, change, count, read):
    """Read a file after each of many changes. Any error other than a SmaltiError fails the test."""
    rng, good = random.Random(0), file.read_bytes()
    for _ in range(count):
        file.write_bytes(change(good, rng))
        with contextlib.suppress(SmaltiError):
            read()
    file.write_bytes(good)
