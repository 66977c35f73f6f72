"""The README and the pages in docs/: every command and every snippet runs, in the order of its page.

The pages follow these rules. An indented block contains shell commands. A Python or YAML block whose first line is a
comment with a path is a file; other Python blocks run. Other fenced blocks are text. `version_N` is the folder of the
latest run.

A page runs in a folder with small real data. Commands that train get the additional options of `shrink`: one step of a
narrow network on small samples.
"""

import importlib
import itertools
import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from smalti.__main__ import _COMMANDS as COMMANDS
from smalti.__main__ import main
from smalti.cli.last_good import KEYWORD, find_last_good
from smalti.cli.recipe_files import recipe_names
from smalti.cli.recipes import load_recipes

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
SLOW = {
    f"docs/{name}.md"
    for name in (
        "change_the_quantizer", "evaluate", "export_programs", "extending", "train_at_scale", "train_images", "train_videos"
    )
}  # fmt: skip
"""Pages whose commands take many seconds."""
NO_COMMANDS = {"docs/design.md": "its indented blocks are diagrams"}
SKIPPED = {
    "make demo": "takes minutes; .ci/run runs a short one",
    "make test": "runs this test",
    "python examples/train_image_model.py my/photos --tokenizer my-tokenizer --out image-model": (
        "takes minutes; tests/test_examples.py runs a short one"
    ),
    "tensorboard --logdir runs": "is a server",
    "smalti demo my-tokenizer": "is a server; tests/playground/test_page.py opens it in a browser",
    "smalti find-lr -c quickstart.yaml": "takes minutes; tests/commands/test_find_lr.py runs it on a smaller network",
}
"""Commands that do not run, and why."""
LAUNCHERS = {r"torchrun .*?-m smalti ": "smalti ", r"sbatch examples/train\.sbatch ": "smalti fit "}
"""Start several processes with the same command, which runs in this process instead."""
TEXT = ("text", "bibtex")
"""Languages of blocks that do not run."""
MAX_LENGTH = 120


class Block(NamedTuple):
    """A block of a page. The language of an indented block is "shell"."""

    language: str
    text: str
    line: int

    @property
    def commands(self):
        lines = self.text.replace("\\\n", " ").splitlines()
        return [re.sub(r"\s+# .*", "", line) for line in lines if line.strip()]

    @property
    def file(self):
        """Path of the file that the block shows, or None."""
        match = re.match(r"# ([\w./]+\.(?:py|yaml))\b", self.text)
        return match[1] if match and self.language in ("python", "yaml") else None


def read_blocks(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    pattern = r"^```(?P<language>\w*)\n(?P<fenced>.*?)^```$|(?:^ {4}[^\n]*\n(?:\n(?= {4}))?)+"
    blocks = []
    for match in re.finditer(pattern, text, re.MULTILINE | re.DOTALL):
        line = text.count("\n", 0, match.start()) + 1
        if match["fenced"] is None:
            blocks.append(Block("shell", re.sub(r"^ {4}", "", match[0], flags=re.MULTILINE), line))
        else:
            blocks.append(Block(match["language"], match["fenced"], line))
    return blocks


def all_commands():
    pages = [page for page in PAGES if page not in NO_COMMANDS]
    return [command for page in pages for b in read_blocks(page) if b.language == "shell" for command in b.commands]


# What the pages say


def test_commands_are_short():
    assert [command for command in all_commands() if len(command) >= MAX_LENGTH] == []


def test_the_list_of_skipped_commands_is_up_to_date():
    assert set(SKIPPED) <= set(all_commands())


@pytest.mark.parametrize("page", PAGES)
def test_blocks_are_in_a_known_language(page):
    assert {block.language for block in read_blocks(page)} <= {"shell", "python", "yaml", *TEXT}


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_recipes_in_the_text_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert set(re.findall(r"`smalti ([a-z][a-z-]*)", text)) <= set(COMMANDS)
    folders = "data|cluster|finetune|wetok|uniwetok|onevae|ltx|reducers"
    assert set(re.findall(rf"\b((?:{folders})/\w+\.yaml)", text)) <= set(recipe_names())


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md"])
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\((?!https?:)([^) ]+)\)", (ROOT / page).read_text(encoding="utf-8")):
        name, _, heading = target.partition("#")
        file = (ROOT / page).parent / name if name else ROOT / page
        assert file.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}, target


def test_the_slurm_script_is_a_shell_script_and_its_resources_are_those_of_the_recipe():
    script = ROOT / "examples" / "train.sbatch"
    subprocess.run(["bash", "-n", script], check=True)
    text = script.read_text(encoding="utf-8")
    settings = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?", text, re.MULTILINE))
    trainer = load_recipes("cluster/32gpus.yaml")["trainer"]
    assert int(settings["nodes"]) == trainer["num_nodes"]
    assert int(settings["ntasks-per-node"]) == int(settings["gpus-per-node"]) == trainer["devices"]
    assert {"requeue", "signal"} <= settings.keys()


# Running them


@pytest.fixture(scope="session")
def material(tmp_path_factory):
    """Return a folder with the files that the pages name: photos, clips, archives, tokenizers and reports."""
    from skimage import data

    from smalti.data import Clips
    from smalti.tokenizers import onevae, wetok
    from smalti.tokenizers.bottlenecks import FSQ, KL, Joint, Projected
    from smalti.tokenizers.checkpoints import save
    from smalti.video import read_frames, write_video

    folder = tmp_path_factory.mktemp("material")
    for name in ("my/photos", "my/val", "my/videos", "my/val_videos", "shards"):
        (folder / name).mkdir(parents=True)
    for name, place in {"coffee": "my/photos", "rocket": "my/photos", "cat": "my/photos", "chelsea": "my/val"}.items():
        Image.fromarray(getattr(data, name)()).resize((96, 72)).save(folder / place / f"{name}.png")
    Image.open(folder / "my/val/chelsea.png").save(folder / "photo.jpg")
    for name in ("train.zip", "validation.zip"):
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.write(folder / "photo.jpg", "a.jpg")
            archive.write(folder / "photo.jpg", "b.jpg")
    _, video, *_ = Clips("train")[0]
    frames = [frame[:, 100:196, 200:296] for frame, _ in zip(read_frames(video), range(34), strict=False)]
    for name in ("my/videos/a.mp4", "my/videos/b.mp4", "my/val_videos/c.mp4", "clip.mp4"):
        write_video(folder / name, frames, 25)
    torch.manual_seed(0)
    small = wetok(FSQ([8, 8, 8], 2), stride=8, channels=8, blocks=1, groups=None)
    for name in ("demo/tokenizer", "my-tokenizer"):
        save(small, folder / name)
    joint = Joint(KL(4), Projected(FSQ([8, 8, 8]), dim=4, in_dim=8))
    save(onevae(joint, stride=(4, 8, 8), channels=8, blocks=1), folder / "my-video-tokenizer")
    write_text_tokenizer(folder / "my-language-model")
    runpy.run_path(str(ROOT / "tests" / "diffusers_models.py"))["write"]("sd", folder / "vae")
    write_bands(folder / "my/bands")
    write_band_clips(folder / "my/band_clips")
    (folder / "wan.yaml").write_text(yaml.safe_dump(PUBLISHED["wan"]))
    return folder


def write_bands(folder):
    """Write images of 6 bands with 16 bits."""
    from skimage import data

    folder.mkdir()
    for name in ("coffee", "rocket", "cat"):
        photo = getattr(data, name)()[:96, :96].astype(np.uint16) * 39
        np.save(folder / f"{name}.npy", np.concatenate([photo, 9945 - photo], axis=-1))
    (folder / "channels.yaml").write_text("channels: {rgb: 3, nir: 1, swir: 2}\nrange: [0, 10000]\n")


def write_band_clips(folder):
    """Write clips of 4 bands: a part of a photo that moves."""
    from skimage import data

    folder.mkdir()
    for name in ("coffee", "rocket"):
        photo = getattr(data, name)()
        frames = np.stack([photo[:64, 4 * time : 64 + 4 * time] for time in range(7)])
        np.save(folder / f"{name}.npy", np.concatenate([frames, 255 - frames[..., :1]], axis=-1))
    (folder / "channels.yaml").write_text("channels: {rgb: 3, thermal: 1}\nclips: true\n")


def write_text_tokenizer(folder):
    """Write a text tokenizer of single bytes, and the configuration of a language model with a padded embedding table."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>"]
    trainer = trainers.BpeTrainer(
        special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    model.train_from_iterator([], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text('{"vocab_size": 320}')


PUBLISHED = {
    "wetok": {
        "ddconfig": {"ch": 32, "ch_mult": [1, 1], "num_res_blocks": 1, "z_channels": 8},
        "n_embed": 16, "embed_dim": 8, "num_codebooks": 2,
    },
    "wan": {
        "dim": 4, "z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 1, "temperal_downsample": [False, True, True],
    },
    "cosmos": {
        "name": "DI", "spatial_compression": 8, "channels": 32, "channels_mult": [1, 1], "num_res_blocks": 1,
        "z_channels": 8,
    },
    "diffusers": {
        "_class_name": "AutoencoderKLWan", "base_dim": 8, "z_dim": 4, "dim_mult": [1, 1], "num_res_blocks": 1,
        "temperal_downsample": [True],
    },
    "my_package.acme.FAMILY": {"width": 32, "bits": 4},
}  # fmt: skip
"""Configurations of small models, in place of the published ones, by family."""


def write_published(family, checkpoint, config):
    """Write a checkpoint with the keys of a publisher, and its configuration."""
    from smalti.tokenizers.importers import find_family, load_family

    found = load_family(family) if "." in family else find_family(family)
    Path(config).write_text(json.dumps(PUBLISHED[family]))
    tokenizer = found.build(PUBLISHED[family])
    weights = tokenizer.state_dict()
    published = {key: weights[name].clone() for name, key in found.keys(tokenizer).items()}
    if checkpoint.endswith(".safetensors"):
        save_file(published, checkpoint)
    else:
        torch.save(published, checkpoint)


def shrink(arguments):
    """Return options that make a command of `smalti fit` fast."""
    values = list(itertools.pairwise(arguments))
    checkpoint = next((value for option, value in values if option == "--ckpt_path"), None)
    if checkpoint == KEYWORD:
        checkpoint = find_last_good(Path("runs"))
    recipes = [value for option, value in values if option == "-c"]
    recipe = load_recipes(*(recipes or [Path(checkpoint).parents[1] / "config.yaml"]))
    steps = 1 if checkpoint is None else 2
    options = {
        "trainer.accelerator": "cpu", "trainer.devices": 1, "trainer.num_nodes": 1, "trainer.strategy": "auto",
        "trainer.precision": "32-true", "trainer.max_steps": steps, "trainer.val_check_interval": 1,
        "trainer.limit_val_batches": 1, "trainer.num_sanity_val_steps": 0, "trainer.accumulate_grad_batches": 1,
        "trainer.enable_model_summary": "false", "start.samples": 16, "health.samples": 16,
    }  # fmt: skip
    tokenizer = recipe["model"]["tokenizer"]
    family = tokenizer["class_path"].rpartition(".")[2]
    networks = {
        "wetok": {"channels": 4, "blocks": 1, "groups": "null"},
        "uniwetok": {"channels": 4, "blocks": 1, "groups": "null", "attention_heads": 1},
        "onevae": {"channels": 4, "blocks": 1},
        "ltx": {"encoder_channels": 4, "decoder_channels": 4},
    }
    options |= {f"model.tokenizer.{name}": value for name, value in networks.get(family, {}).items()}
    gan = recipe["model"].get("gan") or {}
    if gan and "discriminator" not in gan.get("init_args", gan):
        options |= {"model.gan.discriminator": "PatchDiscriminator", "model.gan.discriminator.channels": 4}
    if family == "reduced":
        options["model.tokenizer.tokenizer"] = "my-tokenizer"
    if "perceptual" in (recipe["model"].get("losses") or {}):
        options["model.losses.perceptual.network"] = "efflite0"  # LPIPS would have to be downloaded
    images = {"size": 64, "batch_size": 2, "workers": 0}
    videos = {"size": 32, "batch_size": 1, "workers": 0, "frames": 9}
    data = recipe["data"]["class_path"].rpartition(".")[2]
    sizes = {"sizes": "[32,64]", "batch_sizes": "[2,1]", "workers": 0}
    parts = {
        "ImageData": {"": images}, "VideoData": {"": videos}, "MixedData": {"images.": images, "videos.": videos},
        "MultiSizeImageData": {"": sizes},
    }  # fmt: skip
    options |= {f"data.{part}{name}": value for part, small in parts[data].items() for name, value in small.items()}
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def run_command(command, monkeypatch):
    """Run a command of a page in this process."""
    runs = sorted(Path("runs").glob("version_*"), key=lambda run: int(run.name.rpartition("_")[2]))
    command = command.replace("version_N", runs[-1].name if runs else "version_N")
    for launcher, started in LAUNCHERS.items():
        command = re.sub(launcher, started, command)
    program, *words = shlex.split(command)
    if program == "export":
        monkeypatch.setenv(*words[0].split("="))
    elif program == "unset":
        monkeypatch.delenv(words[0])
    elif program == "tar":
        subprocess.run([program, *words], check=True)
    elif program == "smalti":
        published = words[0] == "import" and not words[1].startswith("diffusers:")
        if published and not Path(words[2]).exists():
            write_published(words[1], words[2], words[words.index("--config") + 1])
        if words[0] in ("fit", "check"):
            words += shrink(words)
        if words[0] == "finetune":
            recipe = "finetune/channels.yaml" if {"my/bands", "my/band_clips"} & {*words} else "finetune/decoder.yaml"
            recipe = "finetune/sizes.yaml" if "finetune/sizes.yaml" in words else recipe
            protocol = "clip5x32" if "--frames" in words else "square32"
            words += ["--protocol", protocol, "--", *shrink(["-c", recipe])]
        if words[0] == "evaluate":
            words += ["--rival-samples", "1"]
        monkeypatch.setattr(sys, "argv", ["smalti"])
        try:
            code = main(words)
        except SystemExit as ended:  # by --print_config
            code = ended.code
        assert not code, f"{command} fails"
    else:
        pytest.fail(f"{command}: this program is neither run nor skipped")


@pytest.fixture
def workplace(page, material, tmp_path, monkeypatch, no_network):
    """Return a new folder with the material that the page does not make itself. It is the working directory."""
    shutil.copytree(material, tmp_path, dirs_exist_ok=True)
    text = "\n".join(command for block in read_blocks(page) if block.language == "shell" for command in block.commands)
    for output in re.findall(r"smalti export .*?(?:-o|--out) (\S+)", text):
        shutil.rmtree(tmp_path / output, ignore_errors=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.setenv("SMALTI_IMPORT", "")
    monkeypatch.delenv("SMALTI_TOKENIZER", raising=False)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_package"]:
        del sys.modules[name]


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.slow if page in SLOW else ()) for page in PAGES if page not in NO_COMMANDS],
)
def test_commands_and_snippets_run(page, workplace, monkeypatch):
    blocks, namespace = read_blocks(page), {"__name__": "__main__"}
    for index, block in enumerate(blocks):
        if block.file is not None:
            Path(block.file).parent.mkdir(parents=True, exist_ok=True)
            Path(block.file).write_text(block.text)
            importlib.invalidate_caches()
            name = block.file.removesuffix(".py").replace("/", ".")
            assert any(name in later.text for later in blocks[index + 1 :]), f"{block.file} is not used on the page"
        elif block.language == "python":
            exec(compile("\n" * block.line + block.text, ROOT / page, "exec"), namespace)
        elif block.language == "shell":
            for command in block.commands:
                if command not in SKIPPED:
                    run_command(command, monkeypatch)
        else:
            assert block.language in TEXT, f"{page}, line {block.line}: the first line must name the file"
