import subprocess
import sys
from json import loads
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from smalti.errors import SmaltiError
from smalti.eval.evaluate import evaluate
from smalti.eval.functional import psnr
from smalti.eval.reconstruct import reconstruct, sample_seed
from smalti.pixels import pixels_to_uint8, uint8_to_pixels
from smalti.types import Batch


@pytest.fixture(scope="module")
def pairs(stand_ins):
    return dict(zip(("perceptual", "features"), stand_ins, strict=True))


def values(metrics):
    return {name: metric.value for name, metric in metrics.items()}


@pytest.mark.parametrize("kind", [{}, {"generative": True}, {"continuous": True}])
def test_batch_size_does_not_change_the_numbers(kind, tokenizer_of, batches_of, pairs):
    one = evaluate(tokenizer_of(**kind), batches_of(batch=1), seed=1, **pairs)
    four = evaluate(tokenizer_of(**kind), batches_of(batch=4), seed=1, **pairs)
    assert list(one.samples) == ["astronaut", "chelsea", "coffee", "retina", "rocket"]
    assert_close(values(one.metrics), values(four.metrics), rtol=1e-5, atol=1e-6)
    assert_close(one.samples, four.samples, rtol=1e-5, atol=1e-6)
    assert one.codebook == four.codebook


def test_it_measures_what_a_viewer_sees(tokenizer_of, batches_of):
    tokenizer = tokenizer_of()
    result = evaluate(tokenizer, batches_of(batch=2))
    by_hand = []
    for batch in batches_of(batch=5):
        with torch.no_grad():
            restored = tokenizer(batch.pixels)[0]
        by_hand = psnr(pixels_to_uint8(batch.pixels), pixels_to_uint8(restored)).tolist()
    assert {n: v["psnr"] for n, v in result.samples.items()} == pytest.approx(
        dict(zip(batch.names, by_hand, strict=True))
    )
    assert result.metrics["psnr"].value == pytest.approx(sum(by_hand) / 5)  # not the mean of means of batches 2, 2, 1
    assert result.metrics["psnr"].comparable
    assert result.left_out.keys() == {"lpips", "rfid"}


def test_codebook_use_is_that_of_the_whole_set(tokenizer_of, batches_of):
    tokenizer = tokenizer_of()
    use = evaluate(tokenizer, batches_of(batch=2)).codebook
    assert use is not None
    ids = torch.cat([tokenizer.tokenize(batch.pixels).ids for batch in batches_of()])
    assert [group.used for group in use.groups] == [len(ids[..., g].unique()) for g in range(2)]
    assert all(group.tokens == 5 * 16 * 16 and group.share == group.used / 16 for group in use.groups)
    assert (use.bits_per_pixel, use.compression_ratio) == (0.5, 48)


def test_stand_ins_never_carry_published_names(tokenizer_of, batches_of, pairs):
    result = evaluate(tokenizer_of(), batches_of(), **pairs)
    assert list(result.metrics) == ["psnr", "ssim", "perceptual_efflite0", "fd_efflite0"] == list(result.baseline)
    assert [m.comparable for m in result.metrics.values()] == [True, True, False, False]
    assert result.networks["fd_efflite0"]["sha256"].startswith("57934424")
    # An untrained tokenizer is worse than a thumbnail, by every one of them.
    better = [result.baseline[n].value > result.metrics[n].value for n in ("psnr", "ssim")]
    better += [result.baseline[n].value < result.metrics[n].value for n in ("perceptual_efflite0", "fd_efflite0")]
    assert all(better)


def test_a_continuous_tokenizer_has_no_codebook(tokenizer_of, batches_of):
    result = evaluate(tokenizer_of(continuous=True), batches_of())
    assert result.codebook is None
    assert "continuous" in result.left_out["codebook"]


def test_one_sample_has_no_frechet_distance(tokenizer_of, batches_of, pairs):
    result = evaluate(tokenizer_of(), batches_of(("coffee",)), **pairs)
    assert "fd_efflite0" not in result.metrics
    assert "two samples" in result.left_out["fd_efflite0"]


def test_noise_belongs_to_the_sample(tokenizer_of, batches_of):
    tokenizer = tokenizer_of(generative=True).eval()
    (batch,) = batches_of(("coffee", "rocket"))
    both = reconstruct(tokenizer, batch, seed=1)[0]
    torch.manual_seed(99)
    turned = reconstruct(tokenizer, Batch(batch.pixels.flip(0), batch.names[::-1]), seed=1)[0]
    assert torch.equal(both, turned.flip(0))
    assert not torch.equal(both, reconstruct(tokenizer, batch, seed=2)[0])
    assert sample_seed(1, "coffee") != sample_seed(1, "rocket")
    assert 0 <= sample_seed(0, "a name that is no UTF-8: \udcff") < 2**63


def test_mode_and_random_numbers_of_the_caller_stay(tokenizer_of, batches_of):
    tokenizer = tokenizer_of(generative=True).train()
    state = torch.get_rng_state()
    flags = (torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32)
    evaluate(tokenizer, batches_of(("coffee",)))
    assert tokenizer.training
    assert torch.equal(state, torch.get_rng_state())
    assert flags == (torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32)


def test_examples_and_progress(tokenizer_of, batches_of):
    done = []
    names = ("rocket", "coffee", "astronaut", "retina")
    result = evaluate(tokenizer_of(), batches_of(names), keep=2, progress=done.append)
    assert [example.name for example in result.examples] == ["astronaut", "coffee"]
    assert torch.equal(uint8_to_pixels(result.examples[1].original), batches_of(("coffee",))[0].pixels[0])
    assert done == [2, 4]


def test_odd_sizes_and_half_precision(tokenizer_of):
    x = torch.rand(1, 3, 33, 50) * 2 - 1
    result = evaluate(tokenizer_of().bfloat16(), [Batch(x, ["odd"])])
    assert result.dtype == "bfloat16"
    assert result.examples[0].reconstruction.shape == (3, 33, 50)


@pytest.mark.parametrize(
    ("pixels", "names", "says"),
    [
        (torch.zeros(2, 3, 64, 64), ["a", "a"], "'a' came twice"),
        (torch.zeros(1, 3, 8, 64), ["small"], "'small' has 8 x 64"),
        (torch.zeros(1, 3, 2, 8, 64), ["clip"], "'clip' has 8 x 64"),
        (torch.zeros(1, 3, 0, 64, 64), ["empty"], "not \\(1, 3, 0, 64, 64\\)"),
        (torch.zeros(1, 2, 3, 64, 64), ["frames"], "clips \\(B, 3, T, H, W\\)"),
    ],
)
def test_samples_that_are_refused(pixels, names, says, tokenizer_of):
    with pytest.raises(SmaltiError, match=says):
        evaluate(tokenizer_of(), [Batch(pixels, names)])


def test_nothing_to_evaluate(tokenizer_of):
    with pytest.raises(SmaltiError, match="no samples"):
        evaluate(tokenizer_of(), [])


def test_a_reconstruction_that_is_not_finite_is_named(tokenizer_of, batches_of):
    tokenizer = tokenizer_of(continuous=True)
    (batch,) = batches_of(("coffee", "rocket"))
    batch.pixels[1, :, 5, 5] = float("inf")
    with pytest.raises(SmaltiError, match="'rocket' is not finite"):
        evaluate(tokenizer, [batch])


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(
    tmp_path, tokenizer_of, batches_of, pairs, video_tokenizer, clip_batches_of, motion
):
    script = Path(__file__).with_name("run_share.py")
    outs = [tmp_path / "0.json", tmp_path / "1.json"]
    runs = [
        subprocess.Popen([sys.executable, str(script), str(rank), str(tmp_path / "store"), str(out)])
        for rank, out in enumerate(outs)
    ]
    try:
        assert [run.wait(timeout=200) for run in runs] == [0, 0]
    finally:
        for run in runs:
            run.kill()
    images = evaluate(tokenizer_of(generative=True), batches_of(batch=3), seed=3, keep=2, **pairs)
    clips = evaluate(video_tokenizer, clip_batches_of(batch=3, frames=2), seed=3, keep=2, features=motion)
    answers = [loads(out.read_text()) for out in outs]
    for answer in answers:
        for alone, shares in ((images, ("uneven", "none")), (clips, ("clips", "no clips"))):
            for together in (answer[share] for share in shares):
                assert_same(together, alone)
        # A fault of one process is known to both.
        assert "'retina' is not finite" in answer["fault"]
        assert "'coffee' came twice" in answer["twice"]
        assert "no samples" in answer["nothing"]
        assert "images and clips" in answer["mixed"]


def assert_same(together, alone):
    """What two processes told equals what one measured."""
    assert list(together["samples"]) == list(alone.samples)
    assert_close(together["samples"], alone.samples, rtol=1e-5, atol=1e-6)
    assert_close(together["metrics"], values(alone.metrics), rtol=1e-4, atol=1e-6)
    assert_close(together["baseline"], values(alone.baseline), rtol=1e-4, atol=1e-6)
    assert together["groups"] == [[g.used, g.tokens, pytest.approx(g.perplexity)] for g in alone.codebook.groups]
    assert together["bits"] == pytest.approx([alone.codebook.bits_per_pixel, alone.baseline_bits_per_pixel])
    assert together["examples"] == [example.name for example in alone.examples]
    assert together["processes"] == 2
