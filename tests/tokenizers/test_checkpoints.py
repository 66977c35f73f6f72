"""Saved tokenizers load exactly, and damaged files are refused with a reason."""

import json
import subprocess
import sys

import pytest
import torch

import smalti
from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks import BSQ, FSQ, GQ, KL
from smalti.tokenizers.checkpoints import fingerprint, load, provenance, save
from smalti.tokenizers.configurable import get_config


@pytest.mark.parametrize("bottleneck", [GQ(2, 4), FSQ([8, 5], 2), BSQ(4, 2), KL(4)], ids=lambda b: type(b).__name__)
def test_round_trip(small, photo, tmp_path, bottleneck):
    tokenizer = small(bottleneck)
    loaded = load(save(tokenizer, tmp_path / "export"))
    with torch.no_grad():
        before, after = tokenizer(photo), loaded(photo)
    assert torch.equal(before[0], after[0])
    if tokenizer.discrete:
        assert torch.equal(before[1].code.ids, after[1].code.ids)
    assert not loaded.training
    assert len(fingerprint(tmp_path / "export")) == 64


def test_a_loaded_tokenizer_is_frozen_and_can_be_trained(small, photo, tmp_path):
    tokenizer = load(save(small(), tmp_path / "export"))
    assert not tokenizer.training
    assert not any(weight.requires_grad for weight in tokenizer.parameters())
    assert not tokenizer(photo)[0].requires_grad
    tokenizer.requires_grad_().train()
    tokenizer(photo)[0].square().mean().backward()
    assert all(weight.grad is not None for weight in tokenizer.parameters())


def test_a_generative_decoder_draws_the_same_noise(small, photo, tmp_path):
    tokenizer = small(generative=True)
    loaded = load(save(tokenizer, tmp_path / "export"))
    with torch.no_grad():
        pixels = [t(photo, torch.Generator().manual_seed(3))[0] for t in (tokenizer, loaded)]
    assert torch.equal(*pixels)


def test_loaded_weights_are_aligned_and_contiguous(small, tmp_path):
    """Both, or the same computation can take another kernel and round differently than in training."""
    tokenizer = small()
    torch.save(
        {"smalti_tokenizer": get_config(tokenizer), "state_dict": strided_state_dict(tokenizer)}, tmp_path / "a.ckpt"
    )
    for path in (save(tokenizer, tmp_path / "export"), tmp_path / "a.ckpt"):
        for name, weight in load(path).state_dict().items():
            assert torch.equal(weight, tokenizer.state_dict()[name])
            assert weight.is_contiguous()
            assert weight.data_ptr() % 64 == 0
            assert weight.untyped_storage().nbytes() == weight.nbytes


def strided_state_dict(tokenizer):
    """Return the weights under the names of a training checkpoint, with images of weights in channels-last layout."""
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    return {
        f"tokenizer.{name}": weight.contiguous(memory_format=layouts.get(weight.ndim, torch.contiguous_format))
        for name, weight in tokenizer.state_dict().items()
    }


def test_tied_weights_are_saved(small, tmp_path):
    tokenizer = small()
    tokenizer.decoder.middle[0].conv1.weight = tokenizer.encoder.middle[0].conv1.weight
    loaded = load(save(tokenizer, tmp_path / "export")).state_dict()
    assert all(torch.equal(loaded[name], weight) for name, weight in tokenizer.state_dict().items())


def test_the_branch_of_a_joint_tokenizer_is_read_from_files_of_version_0_1(small, tmp_path):
    folder = save(small(), tmp_path / "export", provenance={"step": 3, "path": "discrete"})
    assert provenance(folder) == {"step": 3, "branch": "discrete"}


OTHER_LIBRARIES = (
    "lightning torchvision einops lpips torchmetrics webdataset rich tensorboard PIL jsonargparse vector_quantize_pytorch "
    "yaml scipy skimage sklearn efficientnet_lite_pytorch"
)
BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[2].split():
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
import smalti, torch
tokenizer = smalti.load(sys.argv[1])
print(tokenizer.tokenize(torch.zeros(1, 3, 8, 8)).ids.shape)
"""


def test_loading_needs_only_torch_and_safetensors(small, tmp_path):
    save(small(), tmp_path / "export")
    command = [sys.executable, "-c", BLOCKED, str(tmp_path / "export"), OTHER_LIBRARIES]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "torch.Size([1, 4, 2])" in result.stdout


def test_a_missing_library_is_named(small, tmp_path, monkeypatch):
    from smalti.tokenizers.bottlenecks import VQ

    folder = save(small(VQ(8, 64)), tmp_path / "export")
    with monkeypatch.context() as patch:
        patch.delitem(sys.modules, "smalti.tokenizers.bottlenecks.vq")
        patch.setitem(sys.modules, "vector_quantize_pytorch", None)
        with pytest.raises(SmaltiError, match=r"vector_quantize_pytorch.*not installed"):
            load(folder)


def edit_config(folder, **entries):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | entries))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-100]), "damaged"),
        (lambda f: (f / "model.safetensors").unlink(), "no file"),
        (lambda f: (f / "config.json").write_text("{"), "damaged"),
        (lambda f: (f / "config.json").write_text('{"model_type": "bert"}'), "not written by smalti"),
        (lambda f: edit_config(f, format_version=99), "format version 99"),
        (
            lambda f: edit_config(f, tokenizer={"class_path": "os.system", "init_args": {"command": "true"}}),
            "not a part",
        ),
        (lambda f: edit_config(f, tokenizer={"class_path": "nowhere.Encoder"}), "import nowhere"),
        (
            lambda f: edit_config(f, tokenizer={"class_path": "smalti.tokenizers.models.wetok.blocks.Nothing"}),
            "This version of smalti has no",
        ),
    ],
)
def test_damaged_folders_are_refused(small, tmp_path, damage, message):
    folder = save(small(), tmp_path / "export")
    damage(folder)
    with pytest.raises(SmaltiError, match=message):
        load(folder)


def test_a_flipped_bit_is_detected(small, tmp_path):
    folder = save(small(), tmp_path / "export")
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-5] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(SmaltiError, match="SHA-256"):
        load(folder)


def test_foreign_files_are_refused(tmp_path):
    torch.save({"state_dict": {"a": torch.zeros(1)}}, tmp_path / "other.ckpt")
    (tmp_path / "text.ckpt").write_text("hello")
    torch.save({"model": torch.nn.Linear(1, 1)}, tmp_path / "code.ckpt")
    for name, message in (
        ("other.ckpt", "smalti import"),
        ("text.ckpt", "damaged or is no torch checkpoint"),
        ("code.ckpt", "without running its code"),
        ("absent", "no tokenizer"),
    ):
        with pytest.raises(SmaltiError, match=message):
            smalti.load(tmp_path / name)


def test_only_exported_tokenizers_are_overwritten_and_only_on_request(small, tmp_path):
    folder = save(small(), tmp_path / "export")
    with pytest.raises(SmaltiError, match="overwrite"):
        save(small(seed=1), folder)
    before = fingerprint(folder)
    save(small(seed=1), folder, overwrite=True)
    assert fingerprint(folder) != before
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("all of it")
    with pytest.raises(SmaltiError, match="is not an exported tokenizer"):
        save(small(), tmp_path / "thesis", overwrite=True)
