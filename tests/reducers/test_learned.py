"""Reducers that are trained behind a frozen tokenizer: recipes, checkpoints, exports."""

from pathlib import Path

import pytest
import torch

from smalti import reducers
from smalti.__main__ import main
from smalti.errors import SmaltiError
from smalti.export.reduced_files import load_reduced
from smalti.tokenizers import wetok
from smalti.tokenizers.bottlenecks import KL
from smalti.tokenizers.checkpoints import load, save
from smalti.tokenizers.tokenizer import Tokenizer
from smalti.trainers import LatentRestoration

RECIPES = ["uhd", "latents", "llava_mini", "quecc", "convllava"]
KINDS = {
    "uhd": reducers.SpatialResampler, "latents": reducers.SpatialResampler, "llava_mini": reducers.QueryCompressor,
    "quecc": reducers.QueCC, "convllava": reducers.ConvNeXtStage,
}  # fmt: skip
TINY = (
    "--trainer.max_steps 1 --trainer.limit_val_batches 0 --data.batch_size 1 --data.workers 0 --trainer.accelerator cpu "
    "--data.repeats 1 --trainer.enable_model_summary false"
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    torch.manual_seed(0)
    return save(
        wetok(KL(4), stride=8, channels=4, blocks=1, groups=None), tmp_path_factory.mktemp("base") / "tokenizer"
    )


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_build_tokenizers_that_save_and_load(recipe, base, tmp_path):
    from smalti.cli.build_tokenizer import build_tokenizer

    path = f"{{model: {{tokenizer: {{init_args: {{tokenizer: {base}}}}}}}}}"
    tokenizer = build_tokenizer(f"reducers/{recipe}.yaml", path)
    decoder = tokenizer.decoder
    assert isinstance(decoder.reducer.reducer, KINDS[recipe])
    assert not any(p.requires_grad for p in decoder.decoder.parameters())
    assert all(p.requires_grad for p in decoder.restorer.parameters())
    assert not decoder.train().decoder.training
    again = load(save(tokenizer, tmp_path / "export"))
    pixels = torch.rand(2, 3, 64, 64) * 2 - 1
    tokenizer.eval()
    torch.testing.assert_close(again(pixels)[0], tokenizer(pixels)[0])


def test_fit_export_and_reduce(base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["fit", "-c", "reducers/llava_mini.yaml", "--model.tokenizer.tokenizer", str(base), *TINY.split()]
    assert main(arguments) == 0
    checkpoint = next(Path("runs").rglob("last.ckpt"))
    assert main(["export", str(checkpoint), "--out", "export"]) == 0
    trained, before = load(Path("export")), load(base)
    for name, weight in before.decoder.state_dict().items():
        assert torch.equal(trained.decoder.decoder.state_dict()[name], weight)
    from skimage import data

    from smalti.images import write_image

    write_image(Path("a.png"), torch.from_numpy(data.cat()[:64, :64].copy()).permute(2, 0, 1))
    assert main(["reduce", "a.png", "--out", "a.safetensors", "--tokenizer", "export"]) == 0
    assert load_reduced(Path("a.safetensors")).reduced[0].tokens.shape == (1, 4, 64)


def test_a_linear_reducer_can_be_inverted_before_training():
    """A token of 2 x 2 positions with as many channels as they have together loses nothing."""
    torch.manual_seed(0)
    latents = torch.randn(2, 4 * 6, 3)
    cells = (
        latents.view(2, 2, 2, 3, 2, 3).transpose(2, 3).reshape(2, 6, 12)
    )  # the channels of each 2 x 2 in raster order
    assignment = torch.arange(24).view(2, 2, 3, 2).transpose(1, 2)  # rows of cells, cells, rows, columns
    tokens_of = torch.empty(24, dtype=torch.long)
    for cell in range(6):
        tokens_of[assignment.reshape(6, 4)[cell]] = cell
    restorer = reducers.LatentRestorer(12, 3, width=16, heads=2, layers=1)
    restorer.places.weight.data[:12] = torch.eye(12)
    restorer.places.bias.data.zero_()
    reduced = reducers.Reduced(cells, torch.full((2,), 6), tokens_of.expand(2, -1))
    torch.testing.assert_close(restorer(reduced, (4, 6)), latents)


def test_training_reconstructs_the_latents():
    torch.manual_seed(0)
    grid = (4, 4)
    reducer = reducers.SpatialResampler(8, 16, 2, heads=2)
    restorer = reducers.LatentRestorer(16, 8, width=16, heads=2, layers=1)
    basis = torch.randn(4, 16 * 8) / 2
    optimizer = torch.optim.Adam([*reducer.parameters(), *restorer.parameters()], lr=1e-2)
    losses = []
    for _ in range(150):
        latents = (torch.randn(16, 4) @ basis).unflatten(1, (16, 8))
        loss = (restorer(reducer.reduce(latents, grid), grid) - latents).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


def test_latents_as_the_only_target(base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["fit", "-c", "reducers/latents.yaml", "--model.tokenizer.tokenizer", str(base), *TINY.split()]
    assert main([*arguments, "--trainer.logger.init_args.save_dir", "run"]) == 0
    assert len(list(Path("run").rglob("last.ckpt"))) == 1


def test_the_loss_of_latents_is_the_share_of_lost_variance(base):
    torch.manual_seed(0)
    before = load(base)
    restorer = reducers.LatentRestorer(4, 4, width=16, heads=2, layers=1)
    decoder = reducers.ReducedDecoder(before.decoder, reducers.M3(12), restorer)
    tokenizer = Tokenizer(before.encoder, before.bottleneck, decoder)
    loss = LatentRestoration()
    loss.connect(tokenizer)
    latents = tokenizer.encode(torch.rand(2, 3, 64, 48) * 2 - 1)
    (z,), (restored,) = latents.to_grids(), decoder.restore(latents.to_grids())
    variance = z.var((0, 2, 3, 4), correction=0).sum()
    expected = ((restored - z) ** 2).mean((0, 2, 3, 4)).sum() / variance
    torch.testing.assert_close(loss(latents, torch.zeros(())), expected)
    for parameter in restorer.parameters():
        parameter.data.zero_()
    restorer.out.bias.data = z.mean((0, 2, 3, 4))
    torch.testing.assert_close(loss(latents, torch.zeros(())), torch.tensor(1.0))


def test_the_loss_of_latents_needs_a_reducer(base):
    with pytest.raises(SmaltiError, match="LatentRestoration needs a tokenizer with a reducer"):
        LatentRestoration().connect(load(base))


def test_clips_are_reduced_frame_by_frame():
    torch.manual_seed(0)
    z = torch.randn(2, 4, 3, 4, 4)
    decoder = reducers.ReducedDecoder(
        wetok(KL(4), stride=8, channels=4, blocks=1, groups=None).decoder,
        reducers.M3(4),
        reducers.LatentRestorer(4, 4, width=16, heads=2, layers=1),
    )
    (whole,) = decoder.restore((z,))
    (second,) = decoder.restore((z[:, :, 1:2],))
    torch.testing.assert_close(whole[:, :, 1:2], second)
