"""Activation checkpointing gives the same gradients with less memory."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from smalti.errors import SmaltiError
from smalti.tokenizers.layers.activation_checkpointing import CheckpointedBlock, enable_activation_checkpointing
from smalti.trainers import GANLoss, PatchDiscriminator
from smalti.types import Batch


class NoisyBlock(CheckpointedBlock):
    """A block that draws random numbers and takes an argument that is not a tensor."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x, scale):
        return x + F.dropout(torch.tanh(self.conv(x)), 0.5) * torch.randn_like(x) * scale["factor"]


def saved_bytes(run):
    """Run a forward and a backward pass, and return the bytes that are saved between them."""
    total = 0

    def pack(tensor):
        nonlocal total
        total += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = run()
    loss.backward()
    return total


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_random_numbers_and_autocast_are_restored(precision):
    plain = nn.ModuleList(NoisyBlock() for _ in range(3))
    checkpointed = copy.deepcopy(plain)
    assert enable_activation_checkpointing(checkpointed) == 3
    assert checkpointed.state_dict().keys() == plain.state_dict().keys()
    x = torch.rand(2, 4, 8, 8)

    def run(blocks):
        torch.manual_seed(0)
        h = x
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            for block in blocks:
                h = block(h, {"factor": 0.5})
        return h.square().sum()

    assert saved_bytes(lambda: run(checkpointed)) < saved_bytes(lambda: run(plain)) / 2
    for ours, theirs in zip(checkpointed.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize("adaptive", [False, True])
def test_a_training_step_has_the_same_gradients_with_less_memory(training, small, batch, adaptive):
    memory, gradients, names = [], [], []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        gan = GANLoss(PatchDiscriminator(8, 1), adaptive=adaptive)
        module = training(small(), gan=gan, gradient_checkpointing=checkpointing)
        module.log_dict = module.log = lambda *_, **__: None
        torch.manual_seed(1)
        memory.append(saved_bytes(lambda: module.training_step(batch, 0)))  # noqa: B023
        gradients.append([p.grad for p in module.parameters()])
        names.append(list(module.state_dict()))
    assert memory[1] < 0.7 * memory[0]
    assert names[0] == names[1]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_a_video_tokenizer_has_the_same_gradients(training, joint, clip):
    gradients = []
    for checkpointing in (False, True):
        module = training(joint(), gan=False, weights={"l1": 1.0}, gradient_checkpointing=checkpointing)
        module.log_dict = module.log = lambda *_, **__: None
        torch.manual_seed(1)
        module.training_step(Batch(clip, ["bikes"]), 0).backward()
        gradients.append([p.grad for p in module.parameters()])
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_networks_without_checkpointed_blocks_are_rejected(training, small):
    tokenizer = small()
    for level in (*tokenizer.encoder.levels, *tokenizer.decoder.levels):
        level.blocks = nn.Identity()
    tokenizer.encoder.middle = tokenizer.decoder.middle = nn.Identity()
    with pytest.raises(SmaltiError, match="gradient_checkpointing"):
        training(tokenizer, gradient_checkpointing=True)
