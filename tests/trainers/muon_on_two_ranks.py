"""Script for test_muon.py: steps of Muon on two ranks, with whole and with sharded parameters. Each rank writes weights."""

import os
import sys

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from smalti.distributed import mean_over_ranks, rank, world_size
from smalti.trainers import Muon
from smalti.trainers.sharding import _shard_optimizer_state, gather_shards


def build():
    """Return a network with matrices of 7, 8 and 1 rows, of which two ranks do not get equal shares."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 7, 3), torch.nn.Conv2d(7, 8, 3), torch.nn.Conv2d(8, 1, 1)).double()


def train(network, steps, checkpoint=None):
    """Take steps on the part of a batch that belongs to this rank. Return a checkpoint with whole tensors."""
    is_sharded = isinstance(network, FSDPModule)
    optimizer = Muon(network.parameters(), weight_decay=0.1, eps=1e-4)
    if checkpoint is not None:
        optimizer.load_state_dict(_shard_optimizer_state(checkpoint["optimizer"], optimizer))
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x = x.chunk(world_size())[rank()]
    for _ in range(steps):
        optimizer.zero_grad()
        network(x).square().mean().backward()
        if not is_sharded:
            for parameter in network.parameters():
                (parameter.grad,) = mean_over_ranks(parameter.grad)
        optimizer.step()
    return gather_shards({"weights": network.state_dict(), "optimizer": optimizer.state_dict()})


def continue_on_two_ranks(folder):
    """Continue the run of one process, without and with sharding."""
    distributed.init_process_group("gloo", rank=int(os.environ.get("LOCAL_RANK", "0")), world_size=2)
    for name in ("whole", "sharded"):
        checkpoint = torch.load(f"{folder}/one.pt", weights_only=True)
        network = build()
        network.load_state_dict(checkpoint["weights"])
        if name == "sharded":
            fully_shard(network, mesh=init_device_mesh("cpu", (2,)))
        torch.save(train(network, 2, checkpoint), f"{folder}/{name}_{rank()}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    continue_on_two_ranks(sys.argv[1])
