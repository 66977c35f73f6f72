"""One of two processes of test_distributed.py: python two_ranks.py RANK RENDEZVOUS_FILE CASES_FILE OUTPUT_FILE."""

import sys

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from smalti.tokenizers.configurable import from_config


class Step(nn.Module):
    """A learned map before a bottleneck, and one number to train it by."""

    def __init__(self, weight, recipe, state):
        super().__init__()
        self.project = nn.Linear(*weight.shape[::-1], bias=False, dtype=weight.dtype)
        self.project.weight.data.copy_(weight)
        self.bottleneck = from_config(recipe)
        self.bottleneck.load_state_dict(state)

    def forward(self, x):
        losses = self.bottleneck(self.project(x)).losses
        return sum(losses.values()), losses


def main(rank, rendezvous, cases, output):
    torch.set_num_threads(1)
    # Built before the group starts, as trainers do.
    given = torch.load(cases)
    steps = {name: Step(case["weight"], case["recipe"], case["state"]) for name, case in given.items()}
    distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=int(rank), world_size=2)
    results = {}
    for name, step in steps.items():
        trained = DistributedDataParallel(step)  # kept until after backward: its end is the end of its hooks
        total, losses = trained(given[name]["x"].chunk(2)[int(rank)])
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
