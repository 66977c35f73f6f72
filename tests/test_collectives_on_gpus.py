"""All collectives of bottlenecks and callbacks take tensors on the device of the model, as NCCL requires.

The process group has one member but claims to have two, so that every collective runs, on the fake GPU of
`tests/fake_gpu.py`. Whole training runs on it are tested in `tests/trainers/test_distributed.py`.
"""

import sys
from pathlib import Path

import pytest
import torch
from torch import distributed

from smalti.distributed import mean_over_ranks
from smalti.tokenizers.bottlenecks import BSQ, FSQ, GQ, KL, VQ, Joint, Projected, ResidualVQ, SimVQ
from smalti.tokenizers.latent_statistics import LatentStatistics
from smalti.trainers.latent_statistics import update_statistics
from smalti.trainers.lecam import LeCAM

sys.path.append(str(Path(__file__).parent))  # DDP scripts import it in the same way

from fake_gpu import DEVICE, FakeGPU


@pytest.fixture
def gpu(tmp_path, monkeypatch):
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    monkeypatch.setattr(distributed, "get_world_size", lambda group=None: 2)
    try:
        with FakeGPU() as gpu:
            yield gpu
    finally:
        distributed.destroy_process_group()


def test_a_tensor_on_the_cpu_is_refused(gpu):
    mean_over_ranks(torch.ones(2).to(DEVICE))
    with pytest.raises(RuntimeError, match="No backend type"):
        mean_over_ranks(torch.ones(2))


@pytest.mark.parametrize(
    ("bottleneck", "per_call"),
    [
        pytest.param(lambda: GQ(2, 4), 1, id="GQ"),
        pytest.param(lambda: BSQ(4), 1, id="BSQ"),
        pytest.param(lambda: VQ(8, 16), 2, id="VQ"),
        pytest.param(lambda: SimVQ(8, 16), 0, id="SimVQ"),
        pytest.param(lambda: ResidualVQ(8, 2, 16), 4, id="ResidualVQ"),
        pytest.param(lambda: Joint(KL(8), Projected(FSQ([5, 5, 5]), 8, in_dim=16)), 1, id="Joint"),
    ],
)
def test_bottlenecks(gpu, bottleneck, per_call):
    torch.manual_seed(0)
    module = bottleneck().to(DEVICE).train()
    for _ in range(2):
        module(torch.randn(2, 32, module.in_dim).to(DEVICE))
    collectives = gpu.counts["allreduce_"] + gpu.counts["broadcast_"]
    assert collectives == 2 * per_call


def test_latent_statistics_and_lecam(gpu):
    statistics = LatentStatistics(4).to(DEVICE)
    update_statistics(statistics, torch.randn(2, 8, 4).to(DEVICE), 1.0)
    lecam = LeCAM().to(DEVICE)
    lecam(torch.randn(2).to(DEVICE), torch.randn(2).to(DEVICE))
    lecam.update()
    assert gpu.counts["allreduce_"] == 3
