"""Optimizers of bitsandbytes by their short names: state in 8 bits, and the same bits after resuming."""

import sys
from pathlib import Path

import pytest
import torch

from smalti.__main__ import main

TINY = str(Path(__file__).with_name("tiny.yaml"))
WIDE = "{model: {tokenizer: {init_args: {channels: 32}}}}"
EIGHT_BITS = "{model: {optimizer: {class_path: AdamW8bit, init_args: {lr: 1.0e-3}}}}"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["smalti"])


def load(run):
    return torch.load(Path(f"runs/version_{run}/checkpoints/last.ckpt"), weights_only=False)


def averages(checkpoint):
    """Return the tensors of the optimizer's state, which bitsandbytes puts into a dictionary of its own."""
    states = checkpoint["optimizer_states"][0]["state"].values()
    values = [
        v
        for state in states
        for value in state.values()
        for v in (value.values() if isinstance(value, dict) else [value])
    ]
    return [value for value in values if isinstance(value, torch.Tensor) and value.ndim]


def test_the_state_has_8_bits_and_a_resumed_run_continues_it():
    pytest.importorskip("bitsandbytes")
    fit = ["fit", "-c", TINY, "-c", WIDE]
    assert main([*fit, "-c", EIGHT_BITS, "--trainer.max_steps", "6"]) == 0
    assert main([*fit, "-c", EIGHT_BITS, "--trainer.max_steps", "3"]) == 0
    last = "runs/version_1/checkpoints/last.ckpt"
    assert main([*fit, "-c", EIGHT_BITS, "--trainer.max_steps", "6", "--ckpt_path", last]) == 0
    whole, resumed = load(0), load(1)
    assert sum(x.dtype == torch.uint8 and x.numel() >= 4096 for x in averages(whole)) >= 4
    assert all(torch.equal(value, resumed["state_dict"][name]) for name, value in whole["state_dict"].items())
    assert all(torch.equal(x, y) for x, y in zip(averages(whole), averages(resumed), strict=True))
    assert main([*fit, "--trainer.max_steps", "3", "--model.optimizer", "AdamW"]) == 0
    assert sum(x.nbytes for x in averages(whole)) < 0.4 * sum(x.nbytes for x in averages(load(2)))


class NotInstalled:
    """A finder of modules that raises the error of a machine without bitsandbytes."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "bitsandbytes":
            raise ModuleNotFoundError("No module named 'bitsandbytes'", name=name)


@pytest.mark.parametrize("name", ["Adam8bit", "bitsandbytes.optim.AdamW8bit"])
def test_without_bitsandbytes_a_sentence_names_the_extra(name, monkeypatch, capsys):
    for module in [module for module in sys.modules if module.partition(".")[0] == "bitsandbytes"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [NotInstalled, *sys.meta_path])
    assert main(["fit", "-c", TINY, "--model.optimizer", name]) == 2
    assert (
        "need bitsandbytes, which is not installed: run `pip install -e '.[bitsandbytes]'`" in capsys.readouterr().err
    )
