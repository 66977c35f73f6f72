"""Two DDP processes with half of the batch each compute the same as one process with the whole batch."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from smalti.tokenizers.bottlenecks import BSQ, GQ, VQ, ResidualVQ
from smalti.tokenizers.configurable import from_config, get_config

BOTTLENECKS = {
    "per_group": lambda: GQ(2, 5, temperature=0.5),
    "pooled": lambda: GQ(2, 5, codebook_entropy="pooled", temperature=0.5, log_offset=1e-5),
    "bsq": lambda: BSQ(5, groups=2, temperature=0.5),
    "vq": lambda: VQ(10, 12, ema_decay=0.5),
    "residual_vq": lambda: ResidualVQ(10, 2, 12, ema_decay=0.5),
}


@pytest.fixture(scope="module")
def cases():
    torch.manual_seed(0)
    cases = {}
    for name, make in BOTTLENECKS.items():
        bottleneck = make()
        dtype = torch.float32 if name.endswith("vq") else torch.float64
        # The two halves have different means: the entropy of the batch is not the mean of the entropies of the halves.
        x = torch.randn(4, 6, 3, dtype=dtype) + torch.tensor([2.0, 2.0, -2.0, -2.0], dtype=dtype).view(4, 1, 1)
        weight = torch.randn(10, 3, dtype=dtype)
        cases[name] = {"config": get_config(bottleneck), "state": bottleneck.state_dict(), "x": x, "weight": weight}
    return cases


@pytest.fixture(scope="module")
def ranks(cases, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    torch.save(cases, folder / "cases")
    worker = str(Path(__file__).with_name("ddp_worker.py"))
    processes = []
    for rank in range(2):
        files = [str(folder / name) for name in ("rendezvous", "cases", str(rank))]
        command = [sys.executable, worker, str(rank), *files]
        processes.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
    try:
        for process in processes:
            _, error = process.communicate(timeout=600)  # importing torch is slow on a busy machine
            assert process.returncode == 0, error
    finally:
        for process in processes:
            process.kill()
    return [torch.load(folder / str(rank)) for rank in range(2)]


def run_in_one_process(case, batch):
    bottleneck = from_config(case["config"])
    bottleneck.load_state_dict(case["state"])
    weight = case["weight"].clone().requires_grad_()
    losses = bottleneck(batch @ weight.T).losses
    sum(losses.values()).backward()
    return bottleneck, losses, weight.grad


@pytest.mark.parametrize("name", ["per_group", "pooled", "bsq"])
def test_losses_and_gradients_equal_one_process(cases, ranks, name):
    _, losses, gradient = run_in_one_process(cases[name], cases[name]["x"])
    for rank in ranks:
        for key, loss in losses.items():
            torch.testing.assert_close(rank[name]["losses"][key], loss.detach(), rtol=1e-12, atol=0)
        torch.testing.assert_close(rank[name]["gradient"], gradient, rtol=1e-10, atol=1e-14)

    halves = [run_in_one_process(cases[name], half)[1]["codebook_entropy"] for half in cases[name]["x"].chunk(2)]
    assert sum(halves) / 2 < 0.95 * losses["codebook_entropy"]


@pytest.mark.parametrize("name", ["vq", "residual_vq"])
def test_codebooks_learn_from_both_processes(cases, ranks, name):
    bottleneck, _, _ = run_in_one_process(cases[name], cases[name]["x"])
    for key, value in bottleneck.state_dict().items():
        assert torch.equal(ranks[0][name]["state"][key], ranks[1][name]["state"][key]), key
        torch.testing.assert_close(ranks[0][name]["state"][key], value)
