"""What all reducers promise: shapes, lengths, assignments, independence of the batch, gradients, export, errors."""

import pytest
import torch

from smalti import reducers
from smalti.errors import SmaltiError
from smalti.tokenizers.configurable import from_config, get_config

GRID, CHANNELS, BATCH = (12, 12), 16, 3
SIZES = [(300, 200), (200, 300), (640, 640)]


def make_reducers():
    torch.manual_seed(0)
    return {
        "m3": reducers.M3(36),
        "fold": reducers.Fold(3),
        "stf": reducers.STF(CHANNELS, 20),
        "mbtf": reducers.MBTF(4, 20, layers=4),
        "proxy_pool": reducers.ProxyPool(4),
        "proxy_initializer": reducers.ProxyInitializer(CHANNELS, 8, 5),
        "convnext": reducers.ConvNeXtStage(CHANNELS, 20, depth=1),
        "top_k": reducers.TopK(0.25),
        "top_k_by_saliency": reducers.TopK(7, "saliency"),
        "prumerge": reducers.PruMerge(0.125),
        "prumerge_adaptive": reducers.PruMerge(),
        "prumerge_plus": reducers.PruMerge(0.125, plus=True),
        "prumerge_plus_adaptive": reducers.PruMerge(plus=True),
        "local_merge": reducers.LocalMerge(3, 0.1),
        "vqtoken": reducers.VQToken(9),
        "vqtoken_magnitude": reducers.VQToken(9, keep_magnitude=True),
        "vqtoken_adaptive": reducers.VQToken(None, max_iterations=5),
        "uhd": reducers.SpatialResampler(CHANNELS, 20, 4, heads=2),
        "llava_mini": reducers.QueryCompressor(CHANNELS, 20, 2, heads=2),
        "quecc": reducers.QueCC(CHANNELS, CHANNELS, 6, 3),
        "langdc": reducers.AdaptivePool((5, 4)),
        "vistog": reducers.VisToG(CHANNELS, 6),
        "globalcom2": reducers.GlobalCom2((2, 2), 0.5),
        "crops": reducers.CropTokens((6, 6)),
    }


REDUCERS = make_reducers()
HARD = {"vqtoken", "vqtoken_adaptive", "vqtoken_magnitude"}


def inputs_of(name):
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(BATCH, GRID[0] * GRID[1], CHANNELS, generator=generator)
    tokens[1] += torch.randn(1, CHANNELS, generator=generator) * 3  # a uniform sample
    saliency = torch.rand(BATCH, GRID[0] * GRID[1], generator=generator) ** 8
    grid, extra = GRID, {}
    if name == "globalcom2":
        grid = (6, 6)
        extra = {
            "thumbnail_saliency": torch.rand(BATCH, 36, generator=generator),
            "image_sizes": SIZES,
            "newline": torch.full((CHANNELS,), 9.0),
        }
    if name == "crops":
        tokens = torch.cat((tokens, torch.randn(BATCH, 36, CHANNELS, generator=generator)), 1)
        extra = {"boxes": [(10, 10, 90, 60), None, (0, 0, 640, 640)], "image_sizes": SIZES}
    if "saliency" in REDUCERS[name].needs:
        extra["saliency"] = saliency
    return tokens, grid, extra


def select(extra, sample):
    return {name: value if name == "newline" else value[sample : sample + 1] for name, value in extra.items()}


@pytest.mark.parametrize("name", REDUCERS)
def test_lengths_padding_assignment_and_indices(name):
    tokens, grid, extra = inputs_of(name)
    reduced = REDUCERS[name].reduce(tokens, grid, **extra)
    batch, longest, _ = reduced.tokens.shape
    assert batch == BATCH
    assert reduced.lengths.dtype == torch.int64
    assert int(reduced.lengths.max()) == longest
    assert int(reduced.lengths.min()) >= 1
    if REDUCERS[name].fixed_length:
        assert bool((reduced.lengths == longest).all())
    assert not reduced.tokens[~reduced.mask()].any()
    if reduced.assignment is not None:
        assert reduced.assignment.shape == tokens.shape[:2]
        assert int(reduced.assignment.min()) >= -1
        assert bool((reduced.assignment < reduced.lengths[:, None]).all())
    if reduced.indices is not None:
        assert reduced.indices.shape == (batch, longest)
        assert bool((reduced.indices[~reduced.mask()] == -1).all())
        for sample in range(batch):
            kept = reduced.indices[sample] >= 0
            assert len(set(reduced.indices[sample, kept].tolist())) == int(kept.sum())
            if REDUCERS[name].kind == "select":
                source = tokens[sample, reduced.indices[sample, kept]]
                assert torch.equal(reduced.tokens[sample, kept], source)
            places = kept.nonzero()[:, 0]
            assert torch.equal(reduced.assignment[sample, reduced.indices[sample, kept]], places)
    if reduced.sizes is not None:
        assert reduced.sizes.shape == (batch, longest)
        assert not reduced.sizes[~reduced.mask()].any()


@pytest.mark.parametrize("name", REDUCERS)
def test_a_sample_does_not_depend_on_its_batch(name):
    tokens, grid, extra = inputs_of(name)
    whole = REDUCERS[name].reduce(tokens, grid, **extra)
    for sample in range(BATCH):
        alone = REDUCERS[name].reduce(tokens[sample : sample + 1], grid, **select(extra, sample))
        length = int(whole.lengths[sample])
        assert int(alone.lengths) == length
        torch.testing.assert_close(alone.tokens[0], whole.tokens[sample, :length], rtol=1e-4, atol=1e-5)
        for field in ("assignment", "indices"):
            one, all_ = getattr(alone, field), getattr(whole, field)
            if one is not None:
                assert torch.equal(one[0], all_[sample, : one.shape[1]])


@pytest.mark.parametrize("name", REDUCERS)
def test_gradients_reach_the_tokens_and_the_weights(name):
    tokens, grid, extra = inputs_of(name)
    tokens.requires_grad_()
    reduced = REDUCERS[name].reduce(tokens, grid, **extra)
    weights = [w for w in REDUCERS[name].parameters() if w.requires_grad]
    gradients = torch.autograd.grad((reduced.tokens**2).sum(), [tokens, *weights], allow_unused=True)
    assert gradients[0] is not None
    assert gradients[0].isfinite().all()
    assert gradients[0].any()
    assert REDUCERS[name].learned == bool(weights)
    assert all(g is not None for g in gradients)


@pytest.mark.parametrize("name", [name for name, reducer in REDUCERS.items() if reducer.fixed_length])
def test_reducers_of_fixed_length_can_be_exported(name):
    tokens, grid, extra = inputs_of(name)
    module = REDUCERS[name]
    if name.startswith("vqtoken"):
        module = reducers.VQToken(4, max_iterations=3, keep_magnitude=module.keep_magnitude)
    module = module.eval()
    program = torch.export.export(module, (tokens, grid), extra, strict=False)
    with torch.no_grad():
        expected = module.reduce(tokens.flip(0), grid, **{k: v.flip(0) for k, v in extra.items()})
        found = program.module()(tokens.flip(0), grid, **{k: v.flip(0) for k, v in extra.items()})
    torch.testing.assert_close(found.tokens, expected.tokens, rtol=1e-4, atol=1e-5)
    assert torch.equal(found.lengths, expected.lengths)


@pytest.mark.parametrize("name", REDUCERS)
def test_configurations_rebuild_reducers(name):
    config = get_config(REDUCERS[name])
    assert config["class_path"].count(".") == 2
    rebuilt = from_config(config)
    rebuilt.load_state_dict(REDUCERS[name].state_dict())
    tokens, grid, extra = inputs_of(name)
    torch.testing.assert_close(
        rebuilt.reduce(tokens, grid, **extra).tokens, REDUCERS[name].reduce(tokens, grid, **extra).tokens
    )


@pytest.mark.parametrize("name", REDUCERS)
def test_tokens_can_be_spread_back(name):
    tokens, grid, extra = inputs_of(name)
    if name == "crops":
        pytest.skip("two grids in one sequence")
    reduced = REDUCERS[name].reduce(tokens, grid, **extra)
    spread = REDUCERS[name].expand(reduced, grid)
    assert spread.shape[:2] == tokens.shape[:2]
    if REDUCERS[name].kind == "select":
        kept = reduced.assignment >= 0
        assert torch.equal(spread[kept], tokens[kept])


def test_folding_loses_nothing():
    tokens, grid, _ = inputs_of("fold")
    fold = reducers.Fold(3)
    assert torch.equal(fold.expand(fold.reduce(tokens, grid), grid), tokens)


@pytest.mark.parametrize("name", ["m3", "langdc", "local_merge", "vqtoken_magnitude"])
def test_spreading_constant_regions_back_is_exact(name):
    reducer = {
        "m3": reducers.M3(36), "langdc": reducers.AdaptivePool((6, 6)), "local_merge": reducers.LocalMerge(2, 0.9),
        "vqtoken_magnitude": reducers.VQToken(36, keep_magnitude=True),
    }[name]  # fmt: skip
    blocks = torch.randn(2, 6, 6, CHANNELS).repeat_interleave(2, 1).repeat_interleave(2, 2)
    tokens = blocks.flatten(1, 2)
    reduced = reducer.reduce(tokens, GRID)
    torch.testing.assert_close(reducer.expand(reduced, GRID), tokens)


def test_a_dropped_position_takes_the_nearest_kept_token():
    tokens = torch.arange(9.0).reshape(1, 9, 1)
    saliency = torch.tensor([[9.0, 0, 0, 0, 0, 0, 0, 0, 9.0]])
    top = reducers.TopK(2)
    spread = top.expand(top.reduce(tokens, (3, 3), saliency=saliency), (3, 3))[0, :, 0]
    assert spread.tolist()[0] == spread.tolist()[1] == spread.tolist()[3] == 0
    assert spread.tolist()[8] == spread.tolist()[7] == spread.tolist()[5] == 8


@pytest.mark.parametrize(
    ("reducer", "grid", "inputs", "message"),
    [
        (reducers.M3(36), (12, 11), {}, "132 positions, but there are 144 tokens"),
        (reducers.M3(100), (12, 12), {}, "no scale of 100 tokens: choose from 144, 36, 16, 9, 4, 1"),
        (reducers.M3(400, upstream=True), (12, 12), {}, "no scale of 400 tokens"),
        (reducers.Fold(5), (12, 12), {}, "cannot be folded"),
        (reducers.ConvNeXtStage(16, 8), (9, 16), {}, "cannot be halved"),
        (reducers.ProxyPool(13), (12, 12), {}, "choose a factor from 1 to 12"),
        (reducers.AdaptivePool((13, 12)), (12, 12), {}, "which is larger"),
        (reducers.TopK(5), (12, 12), {}, "needs the saliency"),
        (reducers.TopK(145), (12, 12), {"saliency": torch.rand(1, 144)}, "from 1 to 144"),
        (reducers.TopK(5), (12, 12), {"saliency": torch.rand(1, 145)}, "without class tokens"),
        (reducers.PruMerge(), (12, 12), {}, "needs the saliency"),
        (reducers.PruMerge(), (12, 12), {"saliency": torch.rand(1, 144), "keys": torch.rand(1, 2, 3)}, "The keys"),
        (reducers.LocalMerge(5), (12, 12), {}, "not a multiple of the window"),
        (reducers.VQToken(145), (12, 12), {}, "145 clusters cannot be made of 144"),
        (reducers.QueCC(16, 16, 4, 5), (12, 12), {}, "does not divide"),
        (reducers.GlobalCom2((2, 2)), (6, 6), {"saliency": torch.rand(1, 144)}, "thumbnail_saliency"),
        (reducers.CropTokens((8, 8)), (8, 10), {}, "needs a box"),
    ],
)
def test_bad_input_is_one_sentence(reducer, grid, inputs, message):
    with pytest.raises(SmaltiError) as error:
        reducer.reduce(torch.randn(1, 144, 16), grid, **inputs)
    assert message in str(error.value)
    assert str(error.value).endswith(".")
    assert ". " not in str(error.value)


def test_tokens_of_all_at_once_have_no_position():
    with pytest.raises(SmaltiError, match="cannot be spread back"):
        reducers.M3(36).expand(reducers.Reduced(torch.randn(1, 2, 3), torch.tensor([2])), GRID)
