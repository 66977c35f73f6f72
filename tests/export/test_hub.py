"""Saving to and loading from a local folder through huggingface_hub's mixin, and the model card. No network."""

import json

import pytest
import torch

import smalti
from smalti.__main__ import main
from smalti.errors import SmaltiError
from smalti.export.hub import PretrainedTokenizer
from smalti.images import save_image
from smalti.tokenizers.checkpoints import save


@pytest.fixture
def report(small, photo, tmp_path, no_network):
    """Return a folder with the report of `smalti evaluate` on two photos."""
    save(small(), tmp_path / "tokenizer")
    (tmp_path / "photos").mkdir()
    for name, pixels in {"a": photo, "b": photo.flip(3)}.items():
        save_image(pixels, tmp_path / "photos" / f"{name}.png")
    options = ["--tokenizer", tmp_path / "tokenizer", "--data", tmp_path / "photos", "--protocol", "square64"]
    options += ["--workers", "0", "--rivals", "none", "--out", tmp_path / "report"]
    assert main(["evaluate", *map(str, options)]) == 0
    return tmp_path / "report"


def test_a_saved_tokenizer_comes_back_equal(small, photo, tmp_path):
    tokenizer = small()
    PretrainedTokenizer(tokenizer).save_pretrained(tmp_path / "saved")
    loaded = PretrainedTokenizer.from_pretrained(tmp_path / "saved").tokenizer
    for other in (loaded, smalti.load(tmp_path / "saved")):
        assert torch.equal(other.tokenize(photo).ids, tokenizer.tokenize(photo).ids)
    assert "## Metrics" not in (tmp_path / "saved" / "README.md").read_text()


def test_the_card_has_metrics_and_pictures(small, report, tmp_path):
    PretrainedTokenizer(small(), report).save_pretrained(tmp_path / "saved")
    card = (tmp_path / "saved" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: smalti\n")
    metrics = json.loads((report / "metrics.json").read_text())
    psnr, baseline = (part["metrics"]["psnr"]["value"] for part in (metrics, metrics["baseline"]))
    assert f"| psnr | {psnr:.4g} | {baseline:.4g} |" in card
    assert "2 samples, protocol `square64`" in card
    assert card.index("## Metrics") < card.index("(contact_sheet.png)") < card.index("## Provenance")
    assert (tmp_path / "saved" / "contact_sheet.png").read_bytes() == (report / "contact_sheet.png").read_bytes()


def test_a_loaded_tokenizer_keeps_its_card(small, report, tmp_path):
    saved, again = tmp_path / "saved", tmp_path / "again"
    PretrainedTokenizer(small(), report, {"steps": 5}).save_pretrained(saved)
    PretrainedTokenizer.from_pretrained(saved).save_pretrained(again)
    assert {file.name: file.read_bytes() for file in again.iterdir()} == {
        file.name: file.read_bytes() for file in saved.iterdir()
    }


def test_push_uploads_the_saved_folder(small, report, monkeypatch):
    from huggingface_hub import HfApi

    uploaded = {}

    class Created:
        repo_id = "me/mine"

    def upload(self, *, folder_path, repo_id, **_):
        uploaded[repo_id] = {file.name for file in folder_path.iterdir()}

    monkeypatch.setattr(HfApi, "create_repo", lambda *_, **__: Created())
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    PretrainedTokenizer(small(), report).push_to_hub("me/mine")
    assert uploaded == {
        "me/mine": {"README.md", "config.json", "contact_sheet.png", "metrics.json", "model.safetensors"}
    }


def test_a_missing_or_damaged_report_is_one_sentence(small, tmp_path, report):
    with pytest.raises(SmaltiError, match=r"has no metrics\.json"):
        PretrainedTokenizer(small(), tmp_path)
    (report / "metrics.json").write_text("{}")
    with pytest.raises(SmaltiError, match="is damaged"):
        PretrainedTokenizer(small(), report)
