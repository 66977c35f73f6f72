"""Latent statistics: exact, over all ranks, and stored with the tokenizer."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

import smalti
from smalti.errors import SmaltiError
from smalti.tokenizers import LTXDecoder, LTXEncoder, Tokenizer
from smalti.tokenizers.bottlenecks import FSQ, KL, Identity, Projected, Unquantized
from smalti.tokenizers.checkpoints import save
from smalti.tokenizers.latent_statistics import LatentStatistics
from smalti.trainers import Checkpoints, TokenizerEMA
from smalti.trainers.latent_statistics import LatentStatisticsCallback, update_statistics
from smalti.types import Batch

WEIGHTS = {"l1": 1.0, "kl": 1e-3}

# Float32 means of some thousand values of about one, updated a few times: below 100 units of rounding.
TOLERANCE = {"rtol": 0, "atol": 100 * torch.finfo(torch.float32).eps}
BLOCKS = [["res_x", {}], ["compress_all", {}], ["res_x", {}]]


def ltx(**options):
    torch.manual_seed(0)
    bottleneck = KL(6, shared_log_variance=True)
    decoder = LTXDecoder(6, 4, BLOCKS, timestep=0.05, noise=0.025, training_noise=[0.0, 0.2], **options)
    return Tokenizer(LTXEncoder(7, 4, BLOCKS), bottleneck, decoder)


def unquantized(**options):
    return Unquantized(Projected(FSQ([8, 8, 8]), dim=6), noise=0.1, **options)


@pytest.fixture
def clips(clip):
    """Return a data module with four different training clips and one validation clip."""

    class Clips(LightningDataModule):
        def train_dataloader(self):
            return DataLoader([Batch(clip[:, :, n : n + 5, :, :32], [f"{n}"]) for n in range(4)], batch_size=None)

        def val_dataloader(self):
            return DataLoader([Batch(-clip[:, :, :5, :, :32], ["validation"])], batch_size=None)

    return Clips()


class LatentRecorder:
    """Records every z of a bottleneck in training, and the mean that the decoder has at that time."""

    def __init__(self, tokenizer):
        self.z, self.means = [], []
        tokenizer.bottleneck.register_forward_hook(self.record, prepend=True)
        tokenizer.decoder.register_forward_pre_hook(
            lambda decoder, _: self.means.append(decoder.statistics.mean.clone())
        )

    def record(self, bottleneck, _, code):
        if bottleneck.training:
            self.z.append(code.z.detach().flatten(0, 1))


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    equal=st.booleans(),
    offset=st.sampled_from([0.0, 1e3]),
    seed=st.integers(0, 99),
)
@settings(max_examples=30, deadline=None)
def test_statistics_of_batches_are_those_of_their_union(sizes, equal, offset, seed):
    generator = torch.Generator().manual_seed(seed)
    batches = [torch.randn(2, 4 if equal else n, 3, generator=generator) + offset for n in sizes]
    statistics, total = LatentStatistics(3), 0
    for batch in batches:
        total += batch.shape[1]
        update_statistics(statistics, batch, batch.shape[1] / total)
    union = torch.cat([batch.flatten(0, 1) for batch in batches]).double()
    torch.testing.assert_close(statistics.mean.double(), union.mean(0), rtol=1e-6, atol=1e-5)
    # Float32 rounds values of about 1000 to 6e-5.
    torch.testing.assert_close(statistics.std.double(), union.std(0, correction=0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_batches_with_nan_or_infinity_are_skipped(bad):
    statistics = LatentStatistics(2)
    update_statistics(statistics, torch.randn(1, 9, 2) + 3, 1.0)
    before = statistics.mean.clone(), statistics.std.clone()
    z = torch.zeros(1, 9, 2)
    z[0, 4, 1] = bad
    update_statistics(statistics, z, 0.5)
    assert torch.equal(statistics.mean, before[0])
    assert torch.equal(statistics.std, before[1])


def test_statistics_cover_the_training_batches_from_the_first_step_on(training, trainer, clips):
    tokenizer = ltx()
    recorder = LatentRecorder(tokenizer)
    run = trainer(LatentStatisticsCallback(0.999), max_steps=4, val_check_interval=2)
    run.fit(training(tokenizer, gan=False, weights=WEIGHTS, gradient_checkpointing=True), clips)
    assert len(recorder.z) == 4
    union = torch.cat(recorder.z)
    torch.testing.assert_close(tokenizer.decoder.statistics.mean, union.mean(0), **TOLERANCE)
    torch.testing.assert_close(tokenizer.decoder.statistics.std, union.std(0, correction=0), **TOLERANCE)
    torch.testing.assert_close(recorder.means[0], recorder.z[0].mean(0), **TOLERANCE)  # used from the first step on
    # After the run, the hook is removed.
    before = tokenizer.decoder.statistics.mean.clone()
    tokenizer.train()(torch.rand(1, 3, 5, 32, 32))
    assert torch.equal(tokenizer.decoder.statistics.mean, before)


def test_a_decay_of_zero_keeps_the_last_batch_only(training, trainer, clips):
    tokenizer = ltx()
    recorder = LatentRecorder(tokenizer)
    trainer(LatentStatisticsCallback(0.0), max_steps=3).fit(training(tokenizer, gan=False, weights=WEIGHTS), clips)
    torch.testing.assert_close(tokenizer.decoder.statistics.mean, recorder.z[-1].mean(0), **TOLERANCE)


def test_without_a_decay_nothing_is_measured(training, trainer, clips):
    tokenizer = ltx()
    trainer(LatentStatisticsCallback(), max_steps=2).fit(training(tokenizer, gan=False, weights=WEIGHTS), clips)
    assert not tokenizer.decoder.statistics.mean.any()


def test_statistics_are_averaged_saved_resumed_and_exported(training, trainer, clip, tmp_path):
    # One clip only, because this loader cannot continue at the batch where the run stopped.
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


@pytest.mark.parametrize(
    "build", [lambda **options: KL(4, **options), lambda **options: Identity(8, **options), unquantized]
)
def test_statistics_of_a_bottleneck_are_those_of_all_its_latents(training, trainer, data, tmp_path, small, build):
    tokenizer = small(build(statistics=True))
    assert tokenizer.latent_statistics is None  # not measured
    recorded = []
    tokenizer.bottleneck.register_forward_hook(lambda module, _, code: recorded.append(code.z.detach()))
    run = trainer(LatentStatisticsCallback(0.999), max_steps=3, limit_val_batches=0)
    run.fit(
        training(tokenizer, gan=False, weights=WEIGHTS if "kl" in tokenizer.bottleneck.loss_names else {"l1": 1.0}),
        data(),
    )
    z = torch.cat([part.flatten(0, 1) for part in recorded])
    measured = tokenizer.latent_statistics
    torch.testing.assert_close(measured.mean.cpu(), z.mean(0), **TOLERANCE)
    torch.testing.assert_close(measured.std.cpu(), z.std(0, unbiased=False), **TOLERANCE)
    save(tokenizer, tmp_path / "export")
    assert torch.equal(smalti.load(tmp_path / "export").latent_statistics.std, measured.std.cpu())
    assert small(build()).latent_statistics is None


def test_settings_without_effect_are_refused(training, trainer, data, clips):
    with pytest.raises(SmaltiError, match="WeTokDecoder has no latent statistics"):
        trainer(LatentStatisticsCallback(0.9)).fit(training(), data())
    trainer(LatentStatisticsCallback(), max_steps=1).fit(training(), data())
    module = training(ltx(), gan=False, weights=WEIGHTS, frozen=["decoder"])
    with pytest.raises(SmaltiError, match="frozen"):
        trainer(LatentStatisticsCallback(0.9)).fit(module, clips)
    with pytest.raises(SmaltiError, match=r"1\.0"):
        LatentStatisticsCallback(1.0)


RANK = """
import json, os, torch
from torch import distributed
from smalti.tokenizers.latent_statistics import LatentStatistics
from smalti.trainers.latent_statistics import update_statistics
rank = int(os.environ["LOCAL_RANK"])
distributed.init_process_group("gloo", rank=rank, world_size=2)
statistics = LatentStatistics(3)
for n in range(2):
    z = torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(n)) + torch.tensor([0.0, 5.0, 1.0])
    z[1] *= 4
    update_statistics(statistics, z[rank : rank + 1], 1 / (n + 1))
print(json.dumps([statistics.mean.tolist(), statistics.std.tolist()]))
"""


@pytest.mark.slow
def test_two_processes_share_their_statistics(tmp_path, run_ranks):
    (tmp_path / "rank.py").write_text(RANK)
    one, two = (json.loads(rank.output.splitlines()[-1]) for rank in run_ranks(tmp_path / "rank.py"))
    assert one == two
    batches = [
        torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(n)) + torch.tensor([0.0, 5.0, 1.0])
        for n in range(2)
    ]
    for z in batches:
        z[1] *= 4
    union = torch.cat(batches).flatten(0, 1)
    torch.testing.assert_close(torch.tensor(one[0]), union.mean(0), rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(torch.tensor(one[1]), union.std(0, correction=0), rtol=1e-6, atol=1e-5)
