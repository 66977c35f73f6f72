"""`smalti fit`: outputs of a run, export, exact resuming after a kill, console output, and invalid recipes."""

import json
import re
import subprocess
import sys

import pytest
import torch
import yaml

import smalti
from smalti.__main__ import main
from smalti.cli.build_tokenizer import build_tokenizer

SMALL = {
    "trainer": {
        "log_every_n_steps": 1,
        "val_check_interval": 3,
        "enable_model_summary": False,
        "enable_progress_bar": False,
    },
    "ema": {"decay": 0.5},
    "checkpoint": {"every_n_train_steps": 1},
    "model": {
        "tokenizer": {
            "class_path": "smalti.Tokenizer",
            "init_args": {
                "encoder": {
                    "class_path": "smalti.tokenizers.WeTokEncoder",
                    "init_args": {"out_dim": 8, "channels": 32, "multipliers": [1, 1], "blocks": 1},
                },
                "bottleneck": {"class_path": "smalti.tokenizers.bottlenecks.GQ", "init_args": {"groups": 2, "bits": 4}},
                "decoder": {
                    "class_path": "smalti.tokenizers.WeTokDecoder",
                    "init_args": {"in_dim": 8, "channels": 32, "multipliers": [1, 1], "blocks": 1},
                },
            },
        },
        "weights": {"l1": 1.0, "adversarial": 0.1, "commitment": 0.25},
        "gan": {
            "class_path": "smalti.trainers.GANLoss",
            "init_args": {
                "discriminator": {"class_path": "smalti.trainers.PatchDiscriminator", "init_args": {"channels": 8}}
            },
        },
    },
}


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Return the options for a small recipe, and change to a temporary folder."""
    monkeypatch.chdir(tmp_path)
    # The command changes sys.argv, which DDP repeats in other processes.
    monkeypatch.setattr(sys, "argv", ["smalti"])
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL))
    return [
        "-c",
        "small.yaml",
        "-c",
        "data/photos.yaml",
        "--data.init_args.size",
        "32",
        "--data.init_args.workers",
        "0",
    ]


def fit(recipe, *options):
    return main(["fit", *recipe, *map(str, options)])


def test_fit_writes_a_run_that_exports(recipe, photo, tmp_path, capsys):
    assert fit(recipe, "--trainer.max_steps", 3) == 0
    assert "To export it: smalti export runs/version_0/checkpoints/last.ckpt" in capsys.readouterr().out
    run = tmp_path / "runs" / "version_0"
    assert list((run / "reconstructions").glob("*.png"))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run))
    events.Reload()
    assert {
        "train/l1", "train/mse", "train/adversarial", "train/discriminator", "train/lecam", "train/token_entropy",
        "train/codebook_entropy", "train/commitment", "val/psnr", "val/codebook_used_0", "val/codebook_perplexity_1",
    } <= set(events.Tags()["scalars"])  # fmt: skip
    assert events.Tags()["images"] == ["val/original_reconstruction_difference"]
    last = run / "checkpoints" / "last.ckpt"
    assert main(["export", str(last), "--out", "export"]) == 0
    config = json.loads((tmp_path / "export" / "config.json").read_text())
    assert config["provenance"]["step"] == 3
    a, b = smalti.load(last), smalti.load("export")
    with torch.no_grad():
        for name, weight in a.state_dict().items():
            assert torch.equal(weight, b.state_dict()[name]), name
        assert torch.equal(a.tokenize(photo).ids, b.tokenize(photo).ids)
        # Float32 convolutions may sum in another order if memory is aligned differently: below 100 machine epsilons.
        torch.testing.assert_close(a(photo)[0], b(photo)[0], rtol=0, atol=1e-5)
    assert main(["validate", *recipe, "--ckpt_path", str(last)]) == 0


def test_check_prints_what_the_recipe_trains_and_writes_nothing(recipe, tmp_path, capsys):
    """The GAN losses are checked although they start later."""
    before = set(tmp_path.iterdir())
    assert main(["check", *recipe, "--model.gan.start", "1000"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^adversarial +0.1 +\S+ +encoder, decoder$", out, re.MULTILINE)
    assert re.search(r"^discriminator +1 +\S+ +discriminator$", out, re.MULTILINE)
    assert re.search(r"^discriminator +[\d,]+ +\S+ +yes$", out, re.MULTILINE)
    assert "Memory of a step per device, about: " in out
    assert set(tmp_path.iterdir()) == before
    assert main(["check", *recipe, "--model.weights.l2", "1"]) == 2
    assert "smalti check: error: model.weights contains 'l2'" in capsys.readouterr().err


def test_the_console_is_quiet(recipe, tmp_path):
    """There are no tips and no warnings about other libraries. Saves and steps are printed once each."""
    command = [sys.executable, "-m", "smalti", "fit", *recipe, "--trainer.max_steps", "3", "--trainer.logger", "false"]
    command += ["--trainer.enable_progress_bar", "true", "--checkpoint.dirpath", str(tmp_path / "checkpoints")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    output = done.stdout + done.stderr
    assert not [word for word in ("Tip", "LeafSpec", "TPU", "sync_dist") if word in output], output
    steps = [line.partition(",")[0] for line in output.splitlines() if line.startswith("step ")]
    assert steps
    assert len(steps) == len(set(steps)), steps
    saved = [line for line in output.splitlines() if line.startswith("Saved")]
    assert len(saved) == len(set(saved)), saved


def test_a_second_recipe_changes_losses_and_weights_by_name(recipe, capsys, tmp_path):
    """And everything that it does not name stays."""
    (tmp_path / "variant.yaml").write_text(
        "model: {losses: {edges: {class_path: smalti.trainers.WaveletLoss}}, weights: {edges: 0.5, commitment: null}}"
    )
    with pytest.raises(SystemExit):
        fit([*recipe, "-c", "variant.yaml", "-c", "{model: {weights: {l1: 2.0}}}"], "--print_config")
    model = yaml.safe_load(capsys.readouterr().out)["model"]
    assert model["weights"] == {"l1": 2.0, "adversarial": 0.1, "edges": 0.5}
    assert model["losses"]["edges"]["class_path"] == "smalti.trainers.WaveletLoss"


def test_invalid_settings_print_one_sentence(recipe, capsys, tmp_path):
    def refused(*options):
        assert fit(recipe, *options) == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    (tmp_path / "typo.yaml").write_text("model: {tokenizer: {init_args: {bottleneck: {init_args: {bitz: 4}}}}}")
    message = refused("-c", "typo.yaml")
    assert all(word in message for word in ("model.tokenizer", "bottleneck", "bitz"))
    assert "max_stepz" in refused("--trainer.max_stepz", 3)
    assert "nowhere.yaml" in refused("-c", "nowhere.yaml")
    assert "'l7'" in refused("--model.weights", "{l1: 1.0, l7: 1.0}", "--trainer.max_steps", 1)
    assert "No reconstruction loss" in refused("--model.weights", "{commitment: 1.0}")
    assert "requires a GPU" in refused("--trainer.accelerator", "cpu", "--trainer.strategy", "fsdp")
    assert "no tokenizer at" in refused("--warm_start.path", "nowhere", "--trainer.max_steps", 1)
    assert "nothing" in refused(
        "--data.init_args.train", "{class_path: smalti.data.Folder, init_args: {path: nothing}}"
    )


def test_missing_weights_of_a_loss_are_reported_before_anything_is_built(recipe, no_network, capsys):
    options = ["--model.losses.perceptual", "PerceptualLoss", "--model.weights.perceptual", "1.0"]
    assert fit(recipe, *options, "--data.init_args.train", "nowhere") == 2
    message = capsys.readouterr().err
    for words in ("vgg16-397923af.pth", "SHA-256", "SMALTI_WEIGHTS", "network: efflite0"):
        assert words in message
    assert fit(recipe, *options, "--model.losses.perceptual.network", "efflite0", "--trainer.max_steps", "1") == 0


def test_untrusted_refuses_recipes_that_run_code(recipe, capsys, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    train = "--data.init_args.train"
    changes = [
        ("--model.losses.evil", "evil.Loss"),
        ("--model.optimizer", "evil.Optimizer"),
        ("--trainer.callbacks", "[{class_path: evil.Callback}]"),
        ("--model.gan", "{class_path: subprocess.Popen, init_args: {args: [touch, ran]}}"),
        (train, "evil.Source"),
        (train, "{class_path: evil.Source}"),
        (train, "pipe:touch ran; cat a.tar"),
        (train, "{class_path: Shards, init_args: {pattern: 'pipe:touch ran', samples: 4}}"),
        (train, "{class_path: Shards, init_args: {pattern: \"https://a.org/';touch ran;'.tar\", samples: 4}}"),
    ]
    for change in changes:
        assert fit(recipe, *change, "--untrusted") == 2, change
        message = capsys.readouterr().err
        assert "--untrusted refuses" in message
        assert not (tmp_path / "ran").exists()
    assert fit(recipe, "--trainer.max_steps", 1, "--untrusted") == 0
    assert "smalti fit --untrusted --ckpt_path" in capsys.readouterr().out
    assert fit(recipe, "--trainer.max_steps", 1, "--model.optimizer", "evil.Optimizer") == 2  # the option has ended
    assert "--untrusted" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "manifest"),
    [
        ("wetok/f8", "wetok_GeneralDomain_compratio48_imagenet"),
        ("wetok/f8_cr24", "wetok_GeneralDomain_compratio24_imagenet"),
        ("wetok/f16", "wetok_GeneralDomain_compratio192_imagenet"),
        ("wetok/f32_generative", "wetok_GeneralDomain_compratio768_imagenet"),
        ("wetok/bitdance_d16c32", "uniwetok_ae_d16c32"),
        ("wetok/bitdance_d32c128_generative", "uniwetok_ae_d32c128"),
        ("wetok/bitdance_d32c256_generative", "uniwetok_ae_d32c256"),
        ("uniwetok/f32", "uniwetok_hybrid_d32c128_assumed"),
    ],
)
def test_recipes_have_the_published_weights(name, manifest, manifests):
    """Names and shapes of all weights are equal, compared on the meta device."""
    from smalti.tokenizers.configurable import get_config
    from smalti.tokenizers.importers import from_published

    published = manifests[manifest]
    state = {key: torch.empty(shape, device="meta") for key, shape in published["state_dict"].items()}
    theirs = from_published(name.partition("/")[0], published["config"], state)
    with torch.device("meta"):
        ours = build_tokenizer(f"{name}.yaml")
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    assert get_config(ours.bottleneck) == get_config(theirs.bottleneck)
