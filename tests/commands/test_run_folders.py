"""Folders of training runs: resuming and extending in place, runs that fail or are interrupted, and what is printed."""

import os
import signal
import sys
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from smalti.__main__ import main
from smalti.cli.training_arguments import prepare_arguments
from smalti.trainers import TokenizerTraining

TINY = (Path(__file__).parent / "tiny.yaml").read_text()
RUN = Path("runs/version_0")
LAST = RUN / "checkpoints" / "last.ckpt"


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["smalti"])
    Path("tiny.yaml").write_text(TINY)


def fit(*options):
    assert main(["fit", *map(str, options)]) == 0


def weights(checkpoint):
    return torch.load(checkpoint, weights_only=True)["current_model_state"]


def assert_equal_weights(a, b):
    a, b = weights(a), weights(b)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def files(folder):
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if "tfevents" not in file.name)


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_run_is_extended_in_its_own_folder(capsys, recwarn):
    """By the path of the checkpoint alone, relative or absolute; it then equals a run that was long from the start."""
    fit("-c", "tiny.yaml")
    assert "To train longer: smalti fit --ckpt_path runs/version_0/checkpoints/last.ckpt --trainer.max_steps 6" in (
        capsys.readouterr().out
    )
    settings = (RUN / "config.yaml").read_text()
    fit("--ckpt_path", LAST, "--trainer.max_steps", 5, "--checkpoint.every_n_train_steps", 2)
    assert "Continuing at step 3." in capsys.readouterr().out
    fit("--ckpt_path", LAST.resolve().with_name("last.ckpt"), "--trainer.max_steps", 6)
    assert not Path("runs/version_1").exists()
    assert files(RUN) == [
        "checkpoints", "checkpoints/best.ckpt", "checkpoints/best.json", "checkpoints/last.ckpt",
        "checkpoints/step=6.ckpt", "config.yaml", "config_until_step_3.yaml", "config_until_step_5.yaml", "hparams.yaml",
        "linear_codec.safetensors", "reconstructions", "reconstructions/step_00000003.png",
        "reconstructions/step_00000006.png",
    ]  # fmt: skip
    assert (RUN / "config_until_step_3.yaml").read_text() == settings
    now = yaml.safe_load((RUN / "config.yaml").read_text())
    assert now["trainer"]["max_steps"] == 6
    assert now["ckpt_path"] is None
    fit("-c", "tiny.yaml", "--trainer.max_steps", 6)
    assert_equal_weights(LAST, "runs/version_1/checkpoints/last.ckpt")
    assert not [str(w.message) for w in recwarn if "dirpath" in str(w.message) or "not empty" in str(w.message)]


def test_the_curve_of_a_resumed_run_has_each_step_once():
    """Also if the interrupted run had continued after its last checkpoint."""
    fit("-c", "tiny.yaml", "--checkpoint.every_n_train_steps", 1, "--checkpoint.save_top_k", -1)
    fit("--ckpt_path", RUN / "checkpoints" / "step=1.ckpt", "--trainer.max_steps", 4)
    events = EventAccumulator(str(RUN))
    events.Reload()
    points = {event.step: event.value for event in events.Scalars("train/loss")}
    assert sorted(points) == [0, 1, 2, 3]
    assert len(events.Scalars("train/loss")) <= 5  # the step after the checkpoint may be shown twice, with one value


def test_a_finished_run_that_is_resumed_without_more_steps_stays_as_it_is(capsys):
    fit("-c", "tiny.yaml", "--trainer.max_steps", 2)
    before = contents(RUN)
    fit("--ckpt_path", LAST)
    assert "already finished: the checkpoint is at step 2" in capsys.readouterr().out
    assert contents(RUN) == before


def test_another_logger_folder_is_respected():
    fit("-c", "tiny.yaml", "--trainer.max_steps", 1)
    fit("--ckpt_path", LAST, "--trainer.max_steps", 2, "--trainer.logger.name", "other")
    assert Path("runs/other/version_0/checkpoints/step=2.ckpt").exists()
    assert not (RUN / "checkpoints" / "step=2.ckpt").exists()


def test_a_checkpoint_outside_of_a_run_opens_a_new_run():
    fit("-c", "tiny.yaml", "--trainer.max_steps", 1)
    Path(RUN / "checkpoints" / "step=1.ckpt").rename("theirs.ckpt")
    fit("-c", "tiny.yaml", "--ckpt_path", "theirs.ckpt", "--trainer.max_steps", 2)
    assert files(Path("runs/version_1/checkpoints")) == ["last.ckpt", "step=2.ckpt"]


def test_settings_of_a_run_start_an_equal_run():
    fit("-c", "tiny.yaml")
    fit("-c", RUN / "config.yaml")
    assert (RUN / "config.yaml").read_text() == Path("runs/version_1/config.yaml").read_text()
    assert_equal_weights(LAST, "runs/version_1/checkpoints/last.ckpt")
    tokenizer = yaml.safe_load((RUN / "config.yaml").read_text())["model"]["tokenizer"]
    assert tokenizer["class_path"] == "smalti.tokenizers.wetok"
    assert tokenizer["init_args"]["bottleneck"]["class_path"] == "smalti.tokenizers.bottlenecks.FSQ"
    assert tokenizer["init_args"]["generative"] is False


def test_validation_uses_the_settings_of_the_run_and_opens_no_folder(capsys):
    fit("-c", "tiny.yaml", "--trainer.max_steps", 1)
    before = files(Path())
    for command in ("validate", "test"):
        assert main([command, "--ckpt_path", str(LAST)]) == 0
    assert "val/psnr" in capsys.readouterr().out
    assert files(Path()) == before


@pytest.mark.parametrize(
    "options",
    [
        ("--data.train", "nowhere"),
        ("--model.weights.l7", "1.0"),
        ("--warm_start.path", "nowhere"),
        ("--model.scheduler", "OneCycleLR", "--model.scheduler.max_lr", "1", "--model.scheduler.total_steps", "2"),
    ],
)
def test_a_wrong_setting_leaves_no_folder(options, capsys):
    assert main(["fit", "-c", "tiny.yaml", *options]) == 2
    assert not Path("runs").exists()


@pytest.mark.parametrize("error", [RuntimeError("a kernel failed"), KeyboardInterrupt()])
def test_a_run_that_stops_in_its_first_step_leaves_no_folder(error, monkeypatch, capsys):
    def training_step(*_):
        raise error

    monkeypatch.setattr(TokenizerTraining, "training_step", training_step)
    with pytest.raises((RuntimeError, SystemExit)):
        fit("-c", "tiny.yaml", "--model.scheduler", "ConstantLR")  # the learning rate is logged before the step
    assert not Path("runs").exists()
    assert "stopped before its first step was finished: nothing was saved" in capsys.readouterr().out


def test_a_resumed_run_that_fails_in_its_first_step_changes_nothing(monkeypatch, capsys):
    fit("-c", "tiny.yaml", "--trainer.max_steps", 1)
    before = contents(RUN)

    def training_step(*_):
        raise RuntimeError("a kernel failed")

    monkeypatch.setattr(TokenizerTraining, "training_step", training_step)
    with pytest.raises(RuntimeError):
        fit("--ckpt_path", LAST, "--trainer.max_steps", 2)
    assert contents(RUN) == before


@pytest.mark.parametrize("interrupt", [True, False])
def test_a_run_that_stops_later_is_kept_and_says_how_to_resume(interrupt, monkeypatch, capsys):
    step = TokenizerTraining.training_step

    def training_step(module, batch, batch_idx):
        if module.global_step == 1:
            if not interrupt:
                raise RuntimeError("a kernel failed")
            os.kill(os.getpid(), signal.SIGINT)
        return step(module, batch, batch_idx)

    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(TokenizerTraining, "training_step", training_step)
    with pytest.raises((RuntimeError, SystemExit)):
        fit("-c", "tiny.yaml")
    signal.signal(signal.SIGINT, previous)
    done = 2 if interrupt else 1
    assert f"The run stopped at step {done}. To resume it: smalti fit --ckpt_path {LAST}\n" in capsys.readouterr().out
    assert (RUN / "checkpoints" / f"step={done}.ckpt").exists()
    assert (RUN / "config.yaml").is_file()
    monkeypatch.setattr(TokenizerTraining, "training_step", step)
    fit("--ckpt_path", LAST)
    assert (RUN / "checkpoints" / "step=3.ckpt").exists()


def test_without_a_folder_the_command_to_resume_has_all_options(monkeypatch, capsys):
    monkeypatch.setenv("SMALTI_IMPORT", "json")
    fit("-c", "tiny.yaml", "--trainer.logger", "false", "--trainer.max_steps", 1)
    assert not Path("config.yaml").exists()
    assert not Path("reconstructions").exists()
    options = "-c tiny.yaml --trainer.logger false --trainer.max_steps 1"
    command = f"smalti fit --import json {options} --ckpt_path {Path('checkpoints/last.ckpt').absolute()}"
    assert command in capsys.readouterr().out


def test_a_half_checkpoint_is_refused_and_last_good_takes_the_one_before(capsys, monkeypatch):
    """`last-good` takes the newest run. A SLURM job that was requeued resumes its own run the same way."""
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    fit("-c", "tiny.yaml", "--checkpoint.every_n_train_steps", 1, "--checkpoint.save_top_k", -1)
    monkeypatch.setenv("SLURM_JOB_ID", "78")
    monkeypatch.setenv("SLURM_JOB_NAME", "bash")
    file = RUN / "checkpoints" / "step=3.ckpt"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    capsys.readouterr()
    assert main(["fit", "--ckpt_path", str(LAST)]) == 2
    refused = f"{LAST} is damaged or is no torch checkpoint: take the newest one that can be read, with --ckpt_path "
    assert f"{refused}{RUN}/last-good.\n" in capsys.readouterr().err
    expected = f"Resuming from {RUN}/checkpoints/step=2.ckpt (step 2). Skipped: {file} is damaged"
    for options in (["--ckpt_path", "last-good"], ["--ckpt_path", f"{RUN}/last-good"], ["-c", "tiny.yaml"]):
        monkeypatch.setenv("SLURM_RESTART_COUNT", "1" if "-c" in options else "0")
        monkeypatch.setenv("SLURM_JOB_ID", "77")
        prepared = prepare_arguments("fit", options)
        assert prepared[-2:] == ["--ckpt_path", f"{RUN}/checkpoints/step=2.ckpt"]
        assert expected in capsys.readouterr().out
    monkeypatch.setenv("SLURM_JOB_ID", "78")
    assert "--ckpt_path" not in prepare_arguments("fit", ["-c", "tiny.yaml"])
    assert main(["fit", "--ckpt_path", "nothing/last-good"]) == 2
    assert "There is no checkpoint of a run in nothing" in capsys.readouterr().err
