"""CheckpointedBlock blocks: the same gradients, less memory."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from smalti.errors import SmaltiError
from smalti.tokenizers.layers.activation_checkpointing import CheckpointedBlock, enable_activation_checkpointing
from smalti.tokenizers.tokenizer import Tokenizer
from smalti.types import Batch


class Noisy(CheckpointedBlock):
    """A block with random numbers of its own, beside a state that it is given."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x, scale):
        return x + F.dropout(torch.tanh(self.conv(x)), 0.5) * torch.randn_like(x) * scale["by"]


def kept_bytes(run):
    """Bytes that the forward pass keeps for the backward pass."""
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
def test_noise_and_precision_come_back(precision):
    plain = nn.ModuleList(Noisy() for _ in range(3))
    again = copy.deepcopy(plain)
    assert enable_activation_checkpointing(again) == 3
    assert again.state_dict().keys() == plain.state_dict().keys()
    x = torch.rand(2, 4, 8, 8)

    def run(blocks):
        torch.manual_seed(0)
        h = x
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            for block in blocks:
                h = block(h, {"by": 0.5})
        return h.square().sum()

    assert kept_bytes(lambda: run(again)) < kept_bytes(lambda: run(plain)) / 2
    for ours, theirs in zip(again.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize("adaptive", [False, True])
def test_a_step_has_the_same_gradients_for_less(training, small, batch, adaptive):
    from smalti.trainers import GANLoss, PatchDiscriminator

    memory, gradients, names = [], [], []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        game = GANLoss(PatchDiscriminator(8, 1), adaptive=adaptive)
        module = training(small(), gan=game, gradient_checkpointing=checkpointing)
        module.log_dict = module.log = lambda *_, **__: None
        torch.manual_seed(1)
        memory.append(kept_bytes(lambda: module.training_step(batch, 0)))  # noqa: B023
        gradients.append([p.grad for p in module.parameters()])
        names.append(list(module.state_dict()))
    assert memory[1] < 0.7 * memory[0]
    assert names[0] == names[1]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_a_video_tokenizer_is_recomputed(training, joint, clip):
    gradients = []
    for checkpointing in (False, True):
        module = training(joint(), gan=False, weights={"l1": 1.0}, gradient_checkpointing=checkpointing)
        module.log_dict = module.log = lambda *_, **__: None
        torch.manual_seed(1)
        module.training_step(Batch(clip, ["bikes"]), 0).backward()
        gradients.append([p.grad for p in module.parameters()])
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_nothing_to_recompute_is_a_sentence(training, small):
    tokenizer = small()
    plain = Tokenizer(tokenizer.encoder, tokenizer.bottleneck, tokenizer.decoder)
    for level in (*plain.encoder.levels, *plain.decoder.levels):
        level.blocks = nn.Identity()
    plain.encoder.middle = plain.decoder.middle = nn.Identity()
    with pytest.raises(SmaltiError, match="gradient_checkpointing"):
        training(plain, gradient_checkpointing=True)
