"""One of the two processes of test_distributed.py: python ddp_worker.py RANK RENDEZVOUS_FILE CASES_FILE OUTPUT_FILE."""

import sys

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from smalti.tokenizers.configurable import from_config


class Step(nn.Module):
    """A trainable linear layer before a bottleneck; returns the sum of the losses."""

    def __init__(self, weight, config, state):
        super().__init__()
        self.project = nn.Linear(*weight.shape[::-1], bias=False, dtype=weight.dtype)
        self.project.weight.data.copy_(weight)
        self.bottleneck = from_config(config)
        self.bottleneck.load_state_dict(state)

    def forward(self, x):
        losses = self.bottleneck(self.project(x)).losses
        return sum(losses.values()), losses


def main(rank, rendezvous, cases, output):
    torch.set_num_threads(1)
    inputs = torch.load(cases)
    # Trainers also build modules before they create the process group.
    steps = {name: Step(case["weight"], case["config"], case["state"]) for name, case in inputs.items()}
    distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=int(rank), world_size=2)
    results = {}
    for name, step in steps.items():
        ddp = DistributedDataParallel(step)  # its hooks average the gradients only if it exists until after backward
        total, losses = ddp(inputs[name]["x"].chunk(2)[int(rank)])
        total.backward()
        results[name] = {
            "losses": {key: loss.detach() for key, loss in losses.items()},
            "gradient": step.project.weight.grad,
            "state": step.bottleneck.state_dict(),
        }
    torch.save(results, output)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
