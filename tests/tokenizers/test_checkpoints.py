"""What is saved comes back bit for bit; what is damaged says so."""

import json
import subprocess
import sys

import pytest
import torch

import smalti
from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks import BSQ, FSQ, GQ, KL
from smalti.tokenizers.checkpoints import fingerprint, load, save
from smalti.tokenizers.configurable import Configurable, from_config, get_config


@pytest.mark.parametrize("bottleneck", [GQ(2, 4), FSQ([8, 5], 2), BSQ(4, 2), KL(4)], ids=lambda b: type(b).__name__)
def test_round_trip(small, photo, tmp_path, bottleneck):
    tokenizer = small(bottleneck)
    again = load(save(tokenizer, tmp_path / "export"))
    with torch.no_grad():
        before, after = tokenizer(photo), again(photo)
    assert torch.equal(before[0], after[0])
    if tokenizer.discrete:
        assert torch.equal(before[1].code.ids, after[1].code.ids)
    assert not again.training
    assert len(fingerprint(tmp_path / "export")) == 64


def test_generative_decoder_comes_back_with_its_noise(small, photo, tmp_path):
    tokenizer = small(generative=True)
    again = load(save(tokenizer, tmp_path / "export"))
    with torch.no_grad():
        pixels = [t(photo, torch.Generator().manual_seed(3))[0] for t in (tokenizer, again)]
    assert torch.equal(*pixels)


OTHERS = (
    "lightning torchvision einops lpips torchmetrics webdataset rich tensorboard PIL jsonargparse vector_quantize_pytorch "
    "yaml scipy skimage sklearn efficientnet_lite_pytorch"
)
BLOCKED = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        # What torch itself asks for is its own affair; none of the other libraries may be asked for.
        if name.partition(".")[0] in sys.argv[2].split():
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Block())
import smalti, torch
tokenizer = smalti.load(sys.argv[1])
print(tokenizer.tokenize(torch.zeros(1, 3, 8, 8)).ids.shape)
"""


def test_loading_needs_torch_and_safetensors_alone(small, tmp_path):
    save(small(), tmp_path / "export")
    command = [sys.executable, "-c", BLOCKED, str(tmp_path / "export"), OTHERS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "torch.Size([1, 4, 2])" in done.stdout


def test_a_library_that_is_needed_is_named(small, tmp_path, monkeypatch):
    from smalti.tokenizers.bottlenecks import VQ

    folder = save(small(VQ(8, 64)), tmp_path / "export")
    with monkeypatch.context() as patch:
        patch.delitem(sys.modules, "smalti.tokenizers.bottlenecks.vq")
        patch.setitem(sys.modules, "vector_quantize_pytorch", None)
        with pytest.raises(SmaltiError, match=r"vector_quantize_pytorch.*not installed"):
            load(folder)


def change(folder, **entries):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | entries))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-100]), "damaged"),
        (lambda f: (f / "model.safetensors").unlink(), "no file"),
        (lambda f: (f / "config.json").write_text("{"), "damaged"),
        (lambda f: (f / "config.json").write_text('{"model_type": "bert"}'), "not written by smalti"),
        (lambda f: change(f, format_version=99), "format version 99"),
        (lambda f: change(f, tokenizer={"class_path": "os.system", "init_args": {"command": "true"}}), "not a part"),
        (lambda f: change(f, tokenizer={"class_path": "nowhere.Encoder"}), "import nowhere"),
        (lambda f: change(f, tokenizer={"class_path": "smalti.tokenizers.models.wetok.blocks.Nothing"}), "not part of this smalti"),
    ],
)
def test_damage_is_told(small, tmp_path, damage, message):
    folder = save(small(), tmp_path / "export")
    damage(folder)
    with pytest.raises(SmaltiError, match=message):
        load(folder)


def test_a_flipped_bit_is_told(small, tmp_path):
    folder = save(small(), tmp_path / "export")
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-5] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(SmaltiError, match="SHA-256"):
        load(folder)


def test_foreign_files_are_told(tmp_path):
    torch.save({"state_dict": {"a": torch.zeros(1)}}, tmp_path / "other.ckpt")
    (tmp_path / "text.ckpt").write_text("hello")
    torch.save({"model": torch.nn.Linear(1, 1)}, tmp_path / "code.ckpt")
    for name, message in (
        ("other.ckpt", "smalti import"),
        ("text.ckpt", "damaged or is no torch checkpoint"),
        ("code.ckpt", "running its code"),
        ("absent", "no tokenizer"),
    ):
        with pytest.raises(SmaltiError, match=message):
            smalti.load(tmp_path / name)


def test_nothing_is_overwritten_unasked(small, tmp_path):
    folder = save(small(), tmp_path / "export")
    with pytest.raises(SmaltiError, match="overwrite"):
        save(small(seed=1), folder)
    before = fingerprint(folder)
    save(small(seed=1), folder, overwrite=True)
    assert fingerprint(folder) != before
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("all of it")
    with pytest.raises(SmaltiError, match="no exported tokenizer"):
        save(small(), tmp_path / "thesis", overwrite=True)


def test_recipes_build_the_same_part(small):
    recipe = get_config(small())
    assert recipe["class_path"] == "smalti.tokenizers.tokenizer.Tokenizer"
    assert recipe["init_args"]["bottleneck"]["init_args"]["bits"] == 4
    assert get_config(from_config(json.loads(json.dumps(recipe)))) == recipe
    with pytest.raises(SmaltiError, match="cannot be built"):
        from_config({"class_path": "smalti.tokenizers.bottlenecks.gq.GQ", "init_args": {"bitz": 4}})


def test_a_part_of_the_users_own_module_is_built_once_it_is_imported():
    recipe = {"class_path": f"{__name__}.Own", "init_args": {"width": 3}}
    sys.modules[__name__] = sys.modules.get(__name__) or type(sys)(__name__)
    sys.modules[__name__].Own = Own
    assert from_config(recipe).width == 3


class Own(Configurable):
    def __init__(self, width):
        super().__init__()
        self.width = width
