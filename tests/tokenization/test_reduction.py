"""`smalti tokenize-dataset --reduce`: reduced latents with lengths and assignment, in every format that holds them."""

import pytest
import torch

import smalti
from smalti.data import EvaluationTransform, Folder
from smalti.eval.latent_saliency import latent_saliency
from smalti.reducers import expand_latents, parse_reducer, reduce_latents
from smalti.tokenization import TokenDataset


def expected(tokenizer, reducer, index, saliency=None):
    """Return the latents of a photo, and what the library reduces them to."""
    pixels = EvaluationTransform(32, 32)(Folder("photos")[index])[None]
    with torch.no_grad():
        latents = tokenizer.encode(pixels)
        values = None if saliency is None else latent_saliency(saliency, tokenizer, latents, pixels)
        return latents, reduce_latents(reducer, latents, values)


@pytest.mark.parametrize("format_", ["npy", "parquet", "webdataset"])
def test_rows_equal_the_library_and_decode(work, bulk, format_):
    options = ("--reduce", "topk:keep=5", "--saliency", "error", "--dtype", "bfloat16")
    assert bulk("a", *options, tokenizer="continuous", format_=format_) == 0
    dataset, tokenizer = TokenDataset("a"), smalti.load("continuous")
    reducer = parse_reducer("topk:keep=5")
    assert (dataset.info.kind, dataset.info.reduction["saliency"]) == ("reduced", "error")
    for index in (0, 7):
        latents, (part,) = expected(tokenizer, reducer, index, "error")
        sample = dataset[index]
        assert sample.reduced.dtype == torch.bfloat16
        assert sample.lengths.tolist() == [5]
        assert torch.equal(sample.assignment, part.assignment[0])
        torch.testing.assert_close(sample.reduced.float(), part.tokens[0], atol=1e-3, rtol=1e-2)
        spread = expand_latents(reducer, [part], latents)
        torch.testing.assert_close(dataset.latents(index).z, spread.z, atol=1e-3, rtol=1e-2)
        assert dataset.decode(index, tokenizer).shape == (1, 3, 32, 32)


@pytest.mark.parametrize("format_", ["parquet", "webdataset"])
def test_numbers_of_tokens_may_differ(work, bulk, content, format_):
    """Weights of merged tokens are needed to spread them back. Rows do not depend on the batch."""
    assert bulk("a", "--reduce", "mustdrop:window=2,threshold=0.3", format_=format_) == 0
    assert bulk("b", "--reduce", "mustdrop:window=2,threshold=0.3", "--batch-size", "1", format_=format_) == 0
    dataset, tokenizer = TokenDataset("a"), smalti.load("tokenizer")
    assert len({len(sample.reduced) for sample in dataset}) > 1
    for index, sample in enumerate(dataset[:5]):
        latents, parts = expected(tokenizer, parse_reducer("mustdrop:window=2,threshold=0.3"), index)
        assert sample.lengths.tolist() == parts[0].lengths.tolist() == [len(sample.reduced)]
        torch.testing.assert_close(sample.sizes, parts[0].sizes[0, : len(sample.sizes)].float())
        spread = expand_latents(parse_reducer("mustdrop:window=2,threshold=0.3"), parts, latents)
        torch.testing.assert_close(dataset.latents(index).z, spread.z, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(TokenDataset("b")[index].reduced, sample.reduced, atol=1e-5, rtol=1e-5)


def test_each_time_step_of_a_clip_is_reduced(work, bulk):
    from smalti.video import write_video

    (work / "videos").mkdir()
    frames = torch.randint(0, 256, (9, 3, 2, 2), dtype=torch.uint8).repeat_interleave(16, 2).repeat_interleave(16, 3)
    write_video(work / "videos" / "a.mp4", frames.unbind(0), 25)
    options = {"data": "videos", "tokenizer": "video", "protocol": "clip9x32", "format_": "parquet"}
    assert bulk("a", "--reduce", "prumerge:ratio=0.25", **options) == 0
    sample = TokenDataset("a")[0]
    steps = sum(t for t, _, _ in sample.layout.grids)
    assert len(sample.lengths) == steps
    assert int(sample.lengths.sum()) == len(sample.reduced) < sample.layout.positions
    assert TokenDataset("a").decode(0, smalti.load("video")).shape == (1, 3, 9, 32, 32)


def test_options_that_do_not_fit_are_one_sentence(work, bulk, error_message):
    assert "There is no reducer 'x'" in error_message(bulk, "a", "--reduce", "x")
    assert "--pack-bits is not for reduced" in error_message(bulk, "a", "--reduce", "topk:keep=5", "--pack-bits")
    assert "not latents" in error_message(bulk, "a", "--reduce", "topk:keep=5", format_="megatron")
    options = ("--reduce", "topk:keep=5", "--saliency", "surprise")
    assert "this tokenizer is continuous" in error_message(bulk, "a", *options, tokenizer="continuous")
    assert "choose" in error_message(bulk, "a", "--reduce", "topk:keep=500")
    assert not list(work.glob("a/*.npy"))
