"""The latent's statistics are measured where z passes, exactly, on all ranks, and go with the tokenizer."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

import smalti
from smalti.__main__ import main
from smalti.errors import SmaltiError
from smalti.tokenizers import LTXDecoder, LTXEncoder, Tokenizer
from smalti.tokenizers.bottlenecks import KL
from smalti.tokenizers.checkpoints import save
from smalti.tokenizers.latent_statistics import LatentStatistics
from smalti.trainers import Checkpoints, TokenizerEMA
from smalti.trainers.latent_statistics import LatentStatisticsCallback, update_statistics
from smalti.types import Batch

WEIGHTS = {"l1": 1.0, "kl": 1e-3}
BLOCKS = [["res_x", {}], ["compress_all", {}], ["res_x", {}]]


def ltx(**options):
    torch.manual_seed(0)
    bottleneck = KL(6, shared_log_variance=True)
    decoder = LTXDecoder(6, 4, BLOCKS, timestep=0.05, noise=0.025, training_noise=[0.0, 0.2], **options)
    return Tokenizer(LTXEncoder(7, 4, BLOCKS), bottleneck, decoder)


@pytest.fixture
def clips(clip):
    """Four training clips that differ, and one to validate on."""

    class Clips(LightningDataModule):
        def train_dataloader(self):
            return DataLoader([Batch(clip[:, :, n : n + 5, :, :32], [f"{n}"]) for n in range(4)], batch_size=None)

        def val_dataloader(self):
            return DataLoader([Batch(-clip[:, :, :5, :, :32], ["validation"])], batch_size=None)

    return Clips()


class Seen:
    """Every z that passes a bottleneck in training, and the statistics that the decoder then has."""

    def __init__(self, tokenizer):
        self.z, self.means = [], []
        tokenizer.bottleneck.register_forward_hook(self.keep, prepend=True)
        tokenizer.decoder.register_forward_pre_hook(
            lambda decoder, _: self.means.append(decoder.statistics.mean.clone())
        )

    def keep(self, bottleneck, _, code):
        if bottleneck.training:
            self.z.append(code.z.detach().flatten(0, 1))


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    equal=st.booleans(),
    offset=st.sampled_from([0.0, 1e3]),
    seed=st.integers(0, 99),
)
@settings(max_examples=30, deadline=None)
def test_batches_add_up_to_their_union(sizes, equal, offset, seed):
    generator = torch.Generator().manual_seed(seed)
    batches = [torch.randn(2, 4 if equal else n, 3, generator=generator) + offset for n in sizes]
    statistics, total = LatentStatistics(3), 0
    for batch in batches:
        total += batch.shape[1]
        update_statistics(statistics, batch, batch.shape[1] / total)
    union = torch.cat([batch.flatten(0, 1) for batch in batches]).double()
    torch.testing.assert_close(statistics.mean.double(), union.mean(0), rtol=1e-6, atol=1e-5)
    # float32 keeps a thousand to 6e-5.
    torch.testing.assert_close(statistics.std.double(), union.std(0, correction=0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_does_not_count(bad):
    statistics = LatentStatistics(2)
    update_statistics(statistics, torch.randn(1, 9, 2) + 3, 1.0)
    before = statistics.mean.clone(), statistics.std.clone()
    z = torch.zeros(1, 9, 2)
    z[0, 4, 1] = bad
    update_statistics(statistics, z, 0.5)
    assert torch.equal(statistics.mean, before[0])
    assert torch.equal(statistics.std, before[1])


def test_they_are_of_the_training_batches_and_used_from_the_first_step(training, trainer, clips):
    tokenizer = ltx()
    seen = Seen(tokenizer)
    run = trainer(LatentStatisticsCallback(0.999), max_steps=4, val_check_interval=2)
    run.fit(training(tokenizer, gan=False, weights=WEIGHTS, gradient_checkpointing=True), clips)
    assert len(seen.z) == 4
    union = torch.cat(seen.z)
    torch.testing.assert_close(tokenizer.decoder.statistics.mean, union.mean(0))
    torch.testing.assert_close(tokenizer.decoder.statistics.std, union.std(0, correction=0))
    torch.testing.assert_close(seen.means[0], seen.z[0].mean(0))  # as the decoder of the first step has them
    # The run over, nobody watches.
    before = tokenizer.decoder.statistics.mean.clone()
    tokenizer.train()(torch.rand(1, 3, 5, 32, 32))
    assert torch.equal(tokenizer.decoder.statistics.mean, before)


def test_a_decay_forgets(training, trainer, clips):
    tokenizer = ltx()
    seen = Seen(tokenizer)
    trainer(LatentStatisticsCallback(0.0), max_steps=3).fit(training(tokenizer, gan=False, weights=WEIGHTS), clips)
    torch.testing.assert_close(tokenizer.decoder.statistics.mean, seen.z[-1].mean(0))


def test_without_a_decay_nothing_is_measured(training, trainer, clips):
    tokenizer = ltx()
    trainer(LatentStatisticsCallback(), max_steps=2).fit(training(tokenizer, gan=False, weights=WEIGHTS), clips)
    assert not tokenizer.decoder.statistics.mean.any()


def test_they_go_with_the_averaged_tokenizer_and_on_with_a_resumed_run(training, trainer, clip, tmp_path):
    # One clip over and over: this loader does not know where a resumed run stands.
    clips = DataLoader([Batch(clip[:, :, :5, :, :32], ["clip"])] * 4, batch_size=None)

    def fit(folder, steps, path=None):
        tokenizer = ltx()
        checkpoints = Checkpoints(every_n_train_steps=1, save_top_k=-1, dirpath=tmp_path / folder)
        run = trainer(LatentStatisticsCallback(0.5), checkpoints, max_steps=steps, enable_checkpointing=True)
        run.fit(training(tokenizer, gan=False, weights=WEIGHTS), clips, ckpt_path=path, weights_only=False)
        (ema,) = [callback for callback in run.callbacks if isinstance(callback, TokenizerEMA)]
        average = ema._average_model.module.decoder.statistics
        return average.mean, average.std

    mean, std = fit("whole", 4)
    again = fit("resumed", 4, tmp_path / "whole" / "step=2.ckpt")
    assert mean.any()
    assert torch.equal(mean, again[0])
    assert torch.equal(std, again[1])
    loaded = smalti.load(tmp_path / "whole" / "last.ckpt")
    assert torch.equal(loaded.decoder.statistics.mean, mean)
    save(loaded, tmp_path / "export")
    assert torch.equal(smalti.load(tmp_path / "export").decoder.statistics.std, std)


def test_who_keeps_none_says_so(training, trainer, data, clips):
    with pytest.raises(SmaltiError, match="WeTokDecoder keeps no statistics"):
        trainer(LatentStatisticsCallback(0.9)).fit(training(), data())
    trainer(LatentStatisticsCallback(), max_steps=1).fit(training(), data())
    module = training(ltx(), gan=False, weights=WEIGHTS, frozen=["decoder"])
    with pytest.raises(SmaltiError, match="frozen"):
        trainer(LatentStatisticsCallback(0.9)).fit(module, clips)
    with pytest.raises(SmaltiError, match=r"1\.0"):
        LatentStatisticsCallback(1.0)


RANK = """
import json, sys, torch
from torch import distributed
from smalti.tokenizers.models.ltx.timestep import LatentStatistics
from smalti.trainers.latent_statistics import count
rank = int(sys.argv[1])
distributed.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=2)
statistics = LatentStatistics(3)
for n in range(2):
    z = torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(n)) + torch.tensor([0.0, 5.0, 1.0])
    z[1] *= 4
    count(statistics, z[rank : rank + 1], 1 / (n + 1))
print(json.dumps([statistics.mean.tolist(), statistics.std.tolist()]))
"""


@pytest.mark.slow
def test_two_processes_have_the_statistics_of_both(tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RANK]
    ranks = [
        subprocess.Popen([*command, str(n), str(tmp_path / "meet")], stdout=subprocess.PIPE, text=True, env=environment)
        for n in range(2)
    ]
    one, two = (json.loads(rank.communicate(timeout=120)[0].splitlines()[-1]) for rank in ranks)
    assert one == two
    batches = [
        torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(n)) + torch.tensor([0.0, 5.0, 1.0])
        for n in range(2)
    ]
    for z in batches:
        z[1] *= 4
    union = torch.cat(batches).flatten(0, 1)
    torch.testing.assert_close(torch.tensor(one[0]), union.mean(0))
    torch.testing.assert_close(torch.tensor(one[1]), union.std(0, correction=0))


@pytest.mark.parametrize(
    "name", ["v095", "fsq", *(pytest.param(n, marks=pytest.mark.slow) for n in ("v090", "v091", "gq"))]
)
def test_recipes_take_a_step_and_are_exported(name, tmp_path, monkeypatch, capsys):
    """The real recipe by the real command, narrower and on small clips; every loss of the paper has its weight."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["smalti"])
    narrow = {"init_args": {"channels": 8}}
    small = {
        "trainer": {
            "precision": 32, "log_every_n_steps": 1, "limit_val_batches": 0, "max_steps": 1,
            "enable_model_summary": False, "enable_progress_bar": False,
        },
        "model": {
            "tokenizer": {"init_args": {"encoder": narrow, "decoder": narrow}},
            "gan": {"init_args": {"start": 0, "discriminator": narrow}},
            "perceptual": {"init_args": {"network": "efflite0"}},
        },
        "data": {"init_args": {"frames": 9, "size": 32, "batch_size": 1, "workers": 0}},
    }  # fmt: skip
    Path("small.yaml").write_text(yaml.safe_dump(small))
    assert main(["fit", "-c", f"ltx/{name}.yaml", "-c", "data/clips.yaml", "-c", "small.yaml"]) == 0
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = Path("runs/version_0")
    events = EventAccumulator(str(run))
    events.Reload()
    last = {tag: events.Scalars(tag)[-1].value for tag in events.Tags()["scalars"] if tag.startswith("train/")}
    weights = yaml.safe_load((run / "config.yaml").read_text())["model"]["weights"]
    assert {"mse", "wavelet", "perceptual", "adversarial"} | (
        {"kl"} if name.startswith("v") else set()
    ) <= weights.keys()
    total = sum(weight * last[f"train/{loss}"] for loss, weight in {"discriminator": 1.0, **weights}.items())
    assert last["train/loss"] == pytest.approx(total, rel=1e-4)
    checkpoint = run / "checkpoints" / "last.ckpt"
    loaded = smalti.load(checkpoint)
    assert loaded.decoder.statistics.mean.any() == name.startswith("v")
    command = ["export", str(checkpoint), "--format", "diffusers", "-o", "diffusers"]
    if name.startswith("v"):
        assert main(command) == 0
    else:
        assert main(command) == 2
        assert "KL" in capsys.readouterr().err
