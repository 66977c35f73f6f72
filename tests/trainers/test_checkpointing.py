"""Resumed, interrupted and diverging runs, and checkpoints that do not fit the recipe."""

import json
import logging
import os
import signal
from pathlib import Path

import pytest
import torch

from smalti.errors import DivergedError, SmaltiError
from smalti.tokenizers.bottlenecks import GQ
from smalti.tokenizers.checkpoints import CHECKPOINT_KEY, load
from smalti.tokenizers.weight_files import read_checkpoint
from smalti.trainers import Checkpoints, GANLoss, PatchDiscriminator, TemporalDiscriminator
from smalti.trainers.resuming import check_resumable


@pytest.fixture
def interrupt_handler():
    """Return a function that sets the handler of SIGINT, which the shell may have disabled. Restore it afterwards."""
    previous = signal.getsignal(signal.SIGINT)
    yield lambda handler: signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGINT, signal.SIG_DFL if previous is None else previous)


@pytest.mark.parametrize("generative", [False, True])
def test_a_resumed_run_equals_an_uninterrupted_one(training, trainer, data, small, toy_loss, tmp_path, generative):
    """Losses, weights, averages, LeCAM, spectral norms, optimizer, schedule, data order and noise are exactly equal."""

    def module():
        schedule = {"scheduler": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step))}
        tokenizer = small(generative=generative)  # seeds what follows
        discriminator = PatchDiscriminator(8, 1) if generative else TemporalDiscriminator(8, 1)
        losses = {"features": toy_loss()} if generative else None
        return training(tokenizer, gan=GANLoss(discriminator, start=2), losses=losses, **schedule)

    whole = trainer(max_steps=8)  # an epoch has six batches
    uninterrupted = module()
    whole.fit(uninterrupted, data())
    first = trainer(Checkpoints(every_n_train_steps=100, dirpath=tmp_path), max_steps=4, enable_checkpointing=True)
    first.fit(module(), data())
    second = trainer(max_steps=8)
    resumed = module()
    torch.manual_seed(12345)  # another process has another random state
    second.fit(resumed, data(), ckpt_path=tmp_path / "last.ckpt")
    assert first.recorder.rows + second.recorder.rows == whole.recorder.rows
    assert whole.recorder.rows[1]["train/discriminator"] == 0
    assert whole.recorder.rows[2]["train/discriminator"] > 0
    states = [m.state_dict() for m in (uninterrupted, resumed)]  # the averages, as `fit` leaves them
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert states[0]["gan.lecam.average_real"] != 0


def interrupt(module, number=signal.SIGINT):
    """Make a training send itself a signal in the middle of the gradient accumulation of its second step."""
    step = module.training_step

    def interrupted(batch, batch_idx):
        if module.global_step == 1 and batch_idx % 2 == 0:
            os.kill(os.getpid(), number)
        return step(batch, batch_idx)

    module.training_step = interrupted
    return module


@pytest.mark.parametrize("handler", [signal.default_int_handler, signal.SIG_IGN], ids=["default", "ignored"])
def test_an_interrupted_run_can_be_resumed_exactly(
    training, trainer, data, small, tmp_path, interrupt_handler, handler
):
    """The interrupted step is finished and saved, and the noise continues as in an uninterrupted run.

    The handler is the default one, or SIG_IGN as in a background job.
    """
    interrupt_handler(handler)
    options = {"accumulate_grad_batches": 2, "max_steps": 5}
    whole = trainer(**options)
    whole.fit(training(small(generative=True)), data())
    first = trainer(Checkpoints(every_n_train_steps=100, dirpath=tmp_path), enable_checkpointing=True, **options)
    with pytest.raises(SystemExit) as stopped:
        first.fit(interrupt(training(small(generative=True))), data())
    assert stopped.value.code == 128 + signal.SIGINT
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2
    assert signal.getsignal(signal.SIGINT) is handler
    second = trainer(**options)
    second.fit(training(small(generative=True)), data(), ckpt_path=tmp_path / "last.ckpt")
    rows = first.recorder.rows + second.recorder.rows
    # Values are logged at the end of an optimizer step, which is every second batch.
    assert rows[1::2] == whole.recorder.rows[1::2]
    assert [row["names"] for row in rows] == [row["names"] for row in whole.recorder.rows]


@pytest.mark.parametrize("handler", [signal.SIG_DFL, lambda *_: None], ids=["SIG_DFL", "custom"])
def test_any_interrupt_handler_is_restored(training, trainer, data, tmp_path, interrupt_handler, handler):
    interrupt_handler(handler)
    previous = signal.getsignal(signal.SIGTERM)
    trainer(Checkpoints(dirpath=tmp_path), max_steps=1, enable_checkpointing=True).fit(training(), data())
    assert signal.getsignal(signal.SIGINT) is handler
    assert signal.getsignal(signal.SIGTERM) is previous


def test_a_handler_that_python_cannot_restore_is_left_in_place(training, trainer, data, tmp_path, monkeypatch):
    """`getsignal` returns None for a handler that was not installed from Python."""
    installed = []
    getsignal, set_handler = signal.getsignal, signal.signal
    monkeypatch.setattr(signal, "getsignal", lambda number: None if number == signal.SIGINT else getsignal(number))
    monkeypatch.setattr(
        signal, "signal", lambda number, handler: installed.append(number) or set_handler(number, handler)
    )
    trainer(Checkpoints(dirpath=tmp_path), max_steps=1, enable_checkpointing=True).fit(training(), data())
    assert signal.SIGINT not in installed


def test_each_checkpoint_is_logged_once(training, trainer, data, tmp_path, caplog):
    run = trainer(Checkpoints(every_n_train_steps=100, dirpath=tmp_path), max_steps=2, enable_checkpointing=True)
    with caplog.at_level(logging.INFO, logger="smalti"):
        run.fit(training(), data())
    assert [r.getMessage() for r in caplog.records if "Saved" in r.getMessage()] == [
        f"Saved {tmp_path / 'step=2.ckpt'}."
    ]


def test_a_nan_stops_the_training_before_it_reaches_the_weights(training, trainer, data, tmp_path):
    module = training()
    step = module.training_step

    def poisoned(batch, batch_idx):
        if module.global_step == 2:
            batch.pixels[0, 0, 0, 0] = float("nan")
        return step(batch, batch_idx)

    module.training_step = poisoned
    run = trainer(Checkpoints(every_n_train_steps=100, dirpath=tmp_path), max_steps=5, enable_checkpointing=True)
    with pytest.raises(DivergedError) as caught:
        run.fit(module, data())
    assert "Step 2" in str(caught.value)
    assert "l1" in str(caught.value)
    assert run.recorder.rows[0]["names"][0].endswith((".png", ".jpg"))
    source = data().train
    assert any(source.name(index) in str(caught.value) for index in range(len(source)))
    saved = load(tmp_path / "last.ckpt")
    assert all(p.isfinite().all() for p in saved.parameters())
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 2
    # Parameters and buffers, such as the statistics of batch norms, are exactly those before the step.
    trainer(Checkpoints(dirpath=tmp_path / "two"), max_steps=2, enable_checkpointing=True).fit(training(), data())
    expected = torch.load(tmp_path / "two" / "last.ckpt", weights_only=True)["current_model_state"]
    assert all(torch.equal(value, expected[name]) for name, value in checkpoint["current_model_state"].items())
    assert all(value.isfinite().all() for value in checkpoint["current_model_state"].values())


def test_a_checkpoint_without_the_discriminator_is_refused(training, trainer, data, tmp_path):
    run = trainer(Checkpoints(dirpath=tmp_path), max_steps=1, enable_checkpointing=True)
    run.fit(training(gan=False, weights={"l1": 1.0}), data())
    with pytest.raises(SmaltiError, match=r"gan\..* is only in the recipe"):
        trainer().fit(training(), data(), ckpt_path=tmp_path / "last.ckpt")


def test_a_checkpoint_of_another_tokenizer_is_refused(training, trainer, data, small, tmp_path):
    run = trainer(Checkpoints(dirpath=tmp_path), max_steps=1, enable_checkpointing=True)
    run.fit(training(), data())
    with pytest.raises(SmaltiError, match="another tokenizer"):
        trainer().fit(training(small(GQ(2, 4, codebook_entropy="pooled"))), data(), ckpt_path=tmp_path / "last.ckpt")


def test_new_arguments_and_moved_classes_do_not_prevent_resuming(training):
    """A checkpoint of an earlier version lacks the new argument and names classes by their old paths."""
    module = training()
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    config = checkpoint[CHECKPOINT_KEY]
    bottleneck = config["init_args"]["bottleneck"]
    assert bottleneck["init_args"].pop("codebook_entropy") == "per_group"  # its default
    bottleneck["class_path"] = "smalti.tokenizers.bottlenecks.gq.GQ"
    module.on_load_checkpoint(checkpoint)
    bottleneck["init_args"]["codebook_entropy"] = "pooled"
    with pytest.raises(SmaltiError, match="another tokenizer"):
        module.on_load_checkpoint(checkpoint)


def test_a_checkpoint_without_a_tokenizer_is_refused():
    with pytest.raises(SmaltiError, match="another tokenizer"):
        check_resumable({"state_dict": {}}, {"class_path": "smalti.Tokenizer", "init_args": {}}, [])


def test_a_checkpoint_with_old_weight_names_is_upgraded(training):
    module = training()
    checkpoint = {"state_dict": {name.replace("gan.", "adversary."): w for name, w in module.state_dict().items()}}
    checkpoint["callbacks"] = {"MeasureLatents": {"batches": 3}, "Checkpoints{'monitor': None, 'mode': 'min'}": {}}
    module.on_save_checkpoint(checkpoint)
    module.on_load_checkpoint(checkpoint)
    assert checkpoint["state_dict"].keys() == module.state_dict().keys()
    assert checkpoint["callbacks"] == {"LatentStatisticsCallback": {"batches": 3}, "Checkpoints": {}}


def test_a_resumed_run_replaces_its_checkpoints_and_those_of_other_folders_stay(training, trainer, data, tmp_path):
    """Whether the folder has the same path as before, or was moved, or is another one."""
    first = trainer(Checkpoints(dirpath=tmp_path / "a"), max_steps=1, enable_checkpointing=True)
    first.fit(training(), data())
    (tmp_path / "a").rename(tmp_path / "b")
    for steps, source, folder, expected in (
        (2, "b", "b", ["last.ckpt", "step=2.ckpt"]),
        (3, "b", "c", ["last.ckpt", "step=3.ckpt"]),
        (4, "b", "b", ["last.ckpt", "step=4.ckpt"]),
    ):
        run = trainer(Checkpoints(dirpath=tmp_path / folder), max_steps=steps, enable_checkpointing=True)
        run.fit(training(), data(), ckpt_path=tmp_path / source / "last.ckpt")
        assert sorted(file.name for file in (tmp_path / folder).iterdir()) == expected
        assert (tmp_path / source / "last.ckpt").is_file()


def test_a_run_that_fails_before_its_first_step_saves_nothing(training, trainer, data, tmp_path):
    trainer(Checkpoints(dirpath=tmp_path), max_steps=1, enable_checkpointing=True).fit(training(), data())
    before = {file.name: file.read_bytes() for file in tmp_path.glob("*.ckpt")}
    module = training()
    module.training_step = lambda *_: 1 / 0
    run = trainer(Checkpoints(dirpath=tmp_path), max_steps=2, enable_checkpointing=True)
    with pytest.raises(ZeroDivisionError):
        run.fit(module, data(), ckpt_path=tmp_path / "last.ckpt")
    assert {file.name: file.read_bytes() for file in tmp_path.glob("*.ckpt")} == before


def names(folder):
    return sorted(file.name for file in folder.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_keeps_the_last_good_checkpoint(training, trainer, data, tmp_path):
    """The file under which the checkpoint is written leads to a full device."""
    module = training()
    step = module.training_step

    def fill_disk(batch, batch_idx):
        if module.global_step == 1:
            (tmp_path / ".partial-step=2.ckpt").symlink_to("/dev/full")
        return step(batch, batch_idx)

    module.training_step = fill_disk
    run = trainer(Checkpoints(1, dirpath=tmp_path), enable_checkpointing=True)
    with pytest.raises(SmaltiError, match=r"step=2\.ckpt cannot be written \(No space left on device\).*: free disk"):
        run.fit(module, data())
    assert names(tmp_path) == ["last.ckpt", "step=1.ckpt"]
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 1


def test_the_newest_the_best_and_milestones_are_kept(training, trainer, data, tmp_path, monkeypatch):
    """Also after a resume, which knows the value of the best one. A file that was not finished is removed."""
    values = iter([3.0, 5.0, 4.0, 4.5, 6.0, 7.0])
    monkeypatch.setattr(type(training()), "_log_metrics", lambda self, stage: self.log("val/psnr", next(values)))
    options = {"enable_checkpointing": True, "val_check_interval": 1, "limit_val_batches": 1, "max_epochs": -1}
    for max_steps, kept, best in (
        (2, [2], 2),
        (4, [2, 3, 4], 2),
        (6, [3, 6], 6),
    ):
        (tmp_path / ".partial-step=9.ckpt").touch()
        checkpoints = Checkpoints(100, dirpath=tmp_path, milestones=3)
        last = tmp_path / "last.ckpt"
        run = trainer(checkpoints, max_steps=max_steps, **options)
        run.fit(training(), data(), ckpt_path=last if last.exists() else None)
        files = ["best.ckpt", "best.json", "last.ckpt", *(f"step={step}.ckpt" for step in kept)]
        assert names(tmp_path) == files
        assert (tmp_path / "best.ckpt").resolve().name == f"step={best}.ckpt"
        assert last.resolve().name == f"step={max_steps}.ckpt"
    # Checkpoints of a validation contain the live weights and the average, as others do.
    saved = torch.load(tmp_path / "best.ckpt", weights_only=True)
    name = "tokenizer.encoder.conv_in.weight"
    assert not torch.equal(saved["state_dict"][name], saved["current_model_state"][name])
    whole = training()
    trainer(max_steps=6).fit(whole, data())
    assert torch.equal(saved["state_dict"][name], whole.state_dict()[name])
    assert json.loads((tmp_path / "best.json").read_text())["value"] == 7


def test_an_unknown_metric_is_refused_and_no_validation_is_fine(training, trainer, data, tmp_path):
    options = {"enable_checkpointing": True, "max_steps": 1, "val_check_interval": 1}
    with pytest.raises(SmaltiError, match=r"val/ssim, which the validation does not measure: choose one of .*val/psnr"):
        trainer(Checkpoints(dirpath=tmp_path, monitor="val/ssim"), **options).fit(training(), data())
    run = trainer(Checkpoints(dirpath=tmp_path, monitor="val/ssim"), limit_val_batches=0, **options)
    run.fit(training(), data())


def test_slurm_requeues_the_job_after_all_steps_are_saved(training, trainer, data, tmp_path, monkeypatch):
    """On the signal that SLURM sends before the time limit. Lightning's handler would save in the middle of a step."""
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" $(ls {tmp_path}/a) > {tmp_path}/called\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for name, value in {"NTASKS": 1, "JOB_ID": 77, "JOB_NAME": "train", "PROCID": 0, "LOCALID": 0, "NODEID": 0}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    run = trainer(Checkpoints(100, dirpath=tmp_path / "a"), enable_checkpointing=True, accumulate_grad_batches=2)
    with pytest.raises(SystemExit) as stopped:
        run.fit(interrupt(training(), signal.SIGUSR1), data())
    assert stopped.value.code == 128 + signal.SIGUSR1
    assert (tmp_path / "called").read_text().split() == ["requeue", "77", "last.ckpt", "step=2.ckpt"]
    assert torch.load(tmp_path / "a" / "last.ckpt", weights_only=True)["global_step"] == 2


def test_checkpoints_are_mapped_into_memory(training, trainer, data, tmp_path, monkeypatch):
    """Processes of one machine share the pages, and a check before the start reads only the structure."""
    run = trainer(Checkpoints(dirpath=tmp_path), max_steps=1, enable_checkpointing=True)
    run.fit(training(), data())
    checkpoint = read_checkpoint(tmp_path / "last.ckpt")
    assert str(tmp_path / "step=1.ckpt") in Path("/proc/self/maps").read_text()
    del checkpoint
    calls, load_file = [], torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **options: calls.append(options) or load_file(*args, **options))
    resumed = trainer(Checkpoints(dirpath=tmp_path), max_steps=2, enable_checkpointing=True)
    resumed.fit(training(), data(), ckpt_path=tmp_path / "last.ckpt")
    assert [call["mmap"] for call in calls] == [True]
