"""Compiled networks: one graph each, the same losses as eager networks, and the same names in checkpoints."""

import copy
import functools
import logging

import pytest
import torch

from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks import BSQ, GQ, KL
from smalti.trainers import GANLoss, PatchDiscriminator, TemporalDiscriminator, TokenizerTraining
from smalti.types import Batch


@pytest.fixture(autouse=True)
def _fresh_compiler(monkeypatch):
    """Forget earlier graphs. Disable torch's structured log: pytest would collect it, which takes most of the time."""
    torch._dynamo.reset()
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "handlers", [])


@pytest.fixture
def graphs(monkeypatch):
    """Compile with a backend that runs a graph as it is, and return the list of all graphs."""
    found = []

    def backend(graph, inputs):
        found.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    return found


def tiny_onevae():
    from smalti.tokenizers.models.onevae import onevae

    return onevae(KL(4), stride=[2, 2, 2], channels=4, multipliers=[1, 1], blocks=1)


def tiny_wetok():
    from smalti.tokenizers.models.wetok import wetok

    return wetok(GQ(2, 4), stride=2, channels=4, multipliers=[1], blocks=1, groups=2, generative=True)


def tiny_uniwetok():
    from smalti.tokenizers.models.uniwetok import uniwetok

    shape = {"channels": 4, "multipliers": [1], "blocks": 1, "groups": 2}
    return uniwetok(GQ(2, 4), stride=2, **shape, attention_blocks=1, attention_heads=1)


def losses_and_gradients(module, pixels, steps=2):
    """Return what each of a few training steps computes, with a small change of the weights after each of them."""
    rows = []
    for step in range(steps):
        torch.manual_seed(step)
        module.zero_grad()
        module._summary = None
        module.training_step(Batch(pixels, ["a"] * len(pixels)), step).backward()
        rows.append(module._summary.means() | {n: p.grad for n, p in module.named_parameters() if p.grad is not None})
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.grad is not None:
                    parameter -= 0.01 * parameter.grad
    return rows


@pytest.mark.parametrize(
    ("build", "is_video"),
    [(tiny_wetok, False), (tiny_uniwetok, False), (tiny_onevae, True)],
    ids=["wetok in bfloat16", "uniwetok in bfloat16", "onevae"],
)
def test_compiled_training_equals_eager_training_with_one_graph_per_network(build, is_video, clip, photo, graphs):
    torch.manual_seed(0)
    tokenizer = build()
    pixels = clip[:, :, :3, :16, :16].contiguous() if is_video else photo[..., :16, :16].repeat(2, 1, 1, 1)
    gan = GANLoss(TemporalDiscriminator(4, 1) if is_video else PatchDiscriminator(4, 1))
    weights = {"l1": 1.0, "adversarial": 0.1, "lecam": 0.05, "kl": 0.1, "codebook_entropy": -0.1}
    eager = TokenizerTraining(tokenizer, weights, gan=gan)
    compiled = TokenizerTraining(copy.deepcopy(tokenizer), weights, gan=copy.deepcopy(gan), compile=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=not is_video):
        expected, actual = (losses_and_gradients(module, pixels) for module in (eager, compiled))
    # The same operations in the same order: equal to the last bit, up to the memory layout of gradients.
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            torch.testing.assert_close(ours[name], value, rtol=1e-5, atol=1e-6, msg=name)
    assert len(graphs) == 4  # encoder, decoder, and the discriminator with and without gradients of its weights
    assert compiled.state_dict().keys() == eager.state_dict().keys()
    # Validation: without gradients, other shapes, and a generator. A copy of the network is not compiled.
    with torch.no_grad():
        compiled.eval().tokenizer(photo, torch.Generator().manual_seed(0))
    losses_and_gradients(copy.deepcopy(compiled).train(), pixels, steps=1)
    assert len(graphs) == 4


def test_compiled_networks_can_recompute_their_activations(photo, graphs):
    rows, saved = [], []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        module = TokenizerTraining(
            tiny_wetok(), {"l1": 1.0}, gradient_checkpointing=checkpointing, compile=checkpointing
        )
        sizes = []

        def pack(tensor, sizes=sizes):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            rows.append(losses_and_gradients(module, photo[..., :32, :32], steps=1))
        saved.append(sum(sizes))
    for name, value in rows[0][0].items():
        torch.testing.assert_close(rows[1][0][name], value, rtol=1e-5, atol=1e-6, msg=name)
    assert saved[1] < 0.7 * saved[0]
    assert len(graphs) == 2


@pytest.mark.parametrize("quantizer", [GQ(2, 4), BSQ(2, 4)])
def test_entropies_have_no_graph_breaks(quantizer):
    x = torch.randn(2, 9, 8)
    compiled = torch.compile(quantizer.train(), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x).losses, quantizer(x).losses)


def test_a_network_with_a_graph_break_is_refused(small, photo, graphs):
    tokenizer = small()
    tokenizer.encoder.conv_in.register_forward_hook(lambda module, x, y: torch._dynamo.graph_break())
    module = TokenizerTraining(tokenizer, {"l1": 1.0}, compile=True)
    with pytest.raises(SmaltiError, match=r"WeTokEncoder cannot be compiled to one graph \(.*\): remove compile"):
        losses_and_gradients(module, photo)


def test_an_adaptive_weight_with_compiled_networks_is_refused(small):
    with pytest.raises(SmaltiError, match=r"remove model\.compile or model\.gan\.adaptive"):
        TokenizerTraining(small(), {"l1": 1.0}, gan=GANLoss(adaptive=True), compile=True)
