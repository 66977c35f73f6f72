"""Evaluation on images: exact means, reproducible noise, several processes."""

from json import loads
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from smalti.errors import SmaltiError
from smalti.eval.evaluate import evaluate
from smalti.eval.functional import psnr
from smalti.eval.metrics import PSNR, SSIM, FrechetDistance, PerceptualDistance, PSNRClip
from smalti.eval.reconstruct import reconstruct
from smalti.eval.rivals import build_rivals
from smalti.pixels import pixels_to_uint8, uint8_to_pixels
from smalti.types import Batch

# Tokenizers run in float64 where two runs are compared: in float32, another batch size may flip the sign of a latent near
# zero, and with it an id. Metrics are float32: the variances in SSIM are differences of numbers near 255^2, relative to
# (0.03 * 255)^2, and the networks have about 50 layers.
TOLERANCE = 65025 * 2**-23 / (0.03 * 255) ** 2


@pytest.fixture
def metrics(perceptual_proxy, image_proxy):
    return [PSNR(), SSIM(), PerceptualDistance(perceptual_proxy), FrechetDistance(image_proxy)]


def values(results):
    return {name: result.value for name, result in results.items()}


@pytest.mark.parametrize("options", [{}, {"generative": True}, {"continuous": True}])
def test_results_do_not_depend_on_the_batch_size(options, build_tokenizer, photo_batches, metrics):
    one, four = (
        evaluate(build_tokenizer(**options).double(), photo_batches(batch_size=n), metrics, seed=1) for n in (1, 4)
    )
    assert list(one.samples) == ["astronaut", "chelsea", "coffee", "retina", "rocket"]
    assert_close(values(one.metrics), values(four.metrics), rtol=TOLERANCE, atol=TOLERANCE)
    assert_close(one.samples, four.samples, rtol=TOLERANCE, atol=TOLERANCE)
    assert one.codebook == four.codebook


def test_metrics_see_reconstructions_rounded_to_8_bits(build_tokenizer, photo_batches):
    tokenizer = build_tokenizer().double()
    result = evaluate(tokenizer, photo_batches(batch_size=2), [PSNR(), SSIM()])
    (batch,) = photo_batches(batch_size=5)
    with torch.no_grad():
        restored = tokenizer(batch.pixels.double())[0]
    expected = psnr(pixels_to_uint8(batch.pixels), pixels_to_uint8(restored)).tolist()
    assert {n: v["psnr"] for n, v in result.samples.items()} == pytest.approx(
        dict(zip(batch.names, expected, strict=True))
    )
    assert result.metrics["psnr"].value == pytest.approx(sum(expected) / 5)  # not the mean over batches of 2, 2, 1
    assert result.metrics["psnr"].comparable
    assert result.metrics.keys() == {"psnr", "ssim"}
    assert result.left_out == {}


def test_codebook_usage_is_that_of_the_dataset(build_tokenizer, photo_batches):
    tokenizer = build_tokenizer().double()
    usage = evaluate(tokenizer, photo_batches(batch_size=2), [PSNR()]).codebook
    assert usage is not None
    ids = torch.cat([tokenizer.tokenize(batch.pixels.double()).ids for batch in photo_batches()])
    assert [group.used for group in usage.groups] == [len(ids[..., g].unique()) for g in range(2)]
    assert all(group.tokens == 5 * 16 * 16 and group.share == group.used / 16 for group in usage.groups)
    assert (usage.bits_per_pixel, usage.compression_ratio) == (0.5, 48)
    assert all(group.reachable == 16 and group.reachable_share == group.share for group in usage.groups)


def test_proxies_never_have_the_names_of_published_metrics(build_tokenizer, photo_batches, metrics):
    result = evaluate(build_tokenizer(), photo_batches(), metrics)
    assert list(result.metrics) == ["psnr", "ssim", "perceptual_efflite0", "fd_efflite0"] == list(result.baseline)
    assert [m.comparable for m in result.metrics.values()] == [True, True, False, False]
    assert [m.higher_is_better for m in result.metrics.values()] == [True, True, False, False]
    assert all(low <= m.value <= high for m in result.metrics.values() for low, high in [m.range])
    assert result.networks["fd_efflite0"]["sha256"].startswith("57934424")
    # An untrained tokenizer is worse than a downsampled image by every metric.
    better = [result.baseline[n].value > result.metrics[n].value for n in ("psnr", "ssim")]
    better += [result.baseline[n].value < result.metrics[n].value for n in ("perceptual_efflite0", "fd_efflite0")]
    assert all(better)


def test_a_continuous_tokenizer_has_no_codebook(build_tokenizer, photo_batches):
    result = evaluate(build_tokenizer(continuous=True), photo_batches(), [PSNR()])
    assert result.codebook is None
    assert "continuous" in result.left_out["codebook"]
    assert result.bits_per_pixel == 16 * 8 / 16  # 16 bits for each of the 8 channels of 4 x 4 pixels
    assert result.baseline_bits_per_pixel == pytest.approx(result.bits_per_pixel, rel=0.02)


def test_one_sample_has_no_frechet_distance(build_tokenizer, photo_batches, metrics):
    result = evaluate(build_tokenizer(), photo_batches(("coffee",)), metrics)
    assert "fd_efflite0" not in result.metrics
    assert "at least 2 samples" in result.left_out["fd_efflite0"]


def test_noise_depends_on_the_sample_and_not_on_its_batch(build_tokenizer, photo_batches):
    tokenizer = build_tokenizer(generative=True).double().eval()
    (batch,) = photo_batches(("coffee", "rocket"))
    both = reconstruct(tokenizer, batch, seed=1)[0]
    torch.manual_seed(99)
    swapped = reconstruct(tokenizer, Batch(batch.pixels.flip(0), batch.names[::-1]), seed=1)[0]
    assert torch.equal(both, swapped.flip(0))
    assert not torch.equal(both, reconstruct(tokenizer, batch, seed=2)[0])
    same_pixels = Batch(batch.pixels[:1].expand(2, -1, -1, -1), ["a", "a name that is not UTF-8: \udcff"])
    first, second = reconstruct(tokenizer, same_pixels, seed=1)[0]
    assert not torch.equal(first, second)


def test_the_training_mode_and_the_random_state_are_restored(build_tokenizer, photo_batches):
    tokenizer = build_tokenizer(generative=True).train()
    state = torch.get_rng_state()
    flags = (torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32)
    evaluate(tokenizer, photo_batches(("coffee",)), [PSNR()])
    assert tokenizer.training
    assert torch.equal(state, torch.get_rng_state())
    assert flags == (torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32)


def test_examples_go_from_the_worst_to_the_best_and_progress_counts_samples(build_tokenizer, photo_batches):
    done = []
    names = ("rocket", "coffee", "astronaut", "retina")
    result = evaluate(build_tokenizer(), photo_batches(names), [PSNR()], num_examples=6, progress=done.append)
    shown = [example.name for example in result.examples]
    assert shown == sorted(names, key=lambda name: result.samples[name]["psnr"])
    coffee = result.examples[shown.index("coffee")]
    assert torch.equal(uint8_to_pixels(coffee.original), photo_batches(("coffee",))[0].pixels[0])
    assert done == [2, 4]


def test_the_recorded_samples_depend_on_names_and_pixels_only(build_tokenizer, photo_batches):
    def record(tokenizer, batches):
        return evaluate(tokenizer, batches, [PSNR()]).samples_sha256

    names = ("coffee", "rocket", "retina")
    first = record(build_tokenizer(), photo_batches(names))
    assert record(build_tokenizer(continuous=True), photo_batches(names[::-1], batch_size=1)) == first
    renamed, changed = photo_batches(names, batch_size=3), photo_batches(names, batch_size=3)
    renamed[0].names[0] = "cup"
    changed[0].pixels[0, 0, 0, 0] += 2 / 255
    digests = {first, record(build_tokenizer(), renamed), record(build_tokenizer(), changed)}
    assert len(digests) == 3


def test_odd_sizes_and_bfloat16_are_evaluated(build_tokenizer):
    x = torch.rand(1, 3, 33, 50) * 2 - 1
    result = evaluate(build_tokenizer().bfloat16(), [Batch(x, ["odd"])], [PSNR()])
    assert result.dtype == "bfloat16"
    assert result.examples[0].reconstruction.shape == (3, 33, 50)


@pytest.mark.parametrize(
    ("pixels", "names", "message"),
    [
        (torch.zeros(2, 3, 64, 64), ["a", "a"], "'a' occurs twice"),
        (torch.zeros(1, 3, 8, 64), ["small"], "'small' has 8 x 64"),
        (torch.zeros(1, 3, 2, 8, 64), ["clip"], "'clip' has 8 x 64"),
        (torch.zeros(1, 3, 0, 64, 64), ["empty"], "not \\(1, 3, 0, 64, 64\\)"),
        (torch.zeros(1, 2, 3, 64, 64), ["frames"], "clips \\(B, 3, T, H, W\\)"),
    ],
)
def test_invalid_samples_raise_an_error(pixels, names, message, build_tokenizer):
    with pytest.raises(SmaltiError, match=message):
        evaluate(build_tokenizer(), [Batch(pixels, names)], [PSNR()])


def test_an_empty_dataset_raises_an_error(build_tokenizer):
    with pytest.raises(SmaltiError, match="no samples"):
        evaluate(build_tokenizer(), [], [PSNR()])


def test_metrics_of_one_name_or_of_other_media_raise_an_error(build_tokenizer, photo_batches):
    with pytest.raises(SmaltiError, match="Two metrics are called 'psnr'"):
        evaluate(build_tokenizer(), photo_batches(), [PSNR(), SSIM(), PSNR()])
    with pytest.raises(SmaltiError, match="psnr_clip is a metric of clips, but the samples are images"):
        evaluate(build_tokenizer(), photo_batches(), [PSNR(), PSNRClip()])


def test_a_nan_in_a_reconstruction_names_the_sample(build_tokenizer, photo_batches):
    tokenizer = build_tokenizer(continuous=True)
    nan_in_the_second = torch.tensor([0, float("nan")])[:, None, None, None, None]
    tokenizer.decoder.register_forward_hook(lambda _, __, pixels: pixels + nan_in_the_second)
    with pytest.raises(SmaltiError, match="'rocket' contains NaN"):
        evaluate(tokenizer, photo_batches(("coffee", "rocket")), [PSNR()])


@pytest.mark.slow
def test_two_processes_return_the_results_of_one(
    tmp_path, run_ranks, build_tokenizer, photo_batches, metrics, video_tokenizer, clip_batches, motion_proxy,
    numbers_of_rivals,
):  # fmt: skip
    outs = [tmp_path / "0.json", tmp_path / "1.json"]
    for rank in run_ranks(Path(__file__).with_name("distributed_worker.py"), str(tmp_path)):
        assert rank.returncode == 0, rank.output
    options = {"seed": 3, "num_examples": 2}
    rivals = {"rivals": build_rivals(["bicubic", "jpeg"]), "rival_samples": 3}
    tokenizer = build_tokenizer(generative=True).double()
    images = evaluate(tokenizer, photo_batches(batch_size=3), metrics, **options, **rivals)
    clip_metrics = [PSNR(), PSNRClip(), SSIM(), FrechetDistance(motion_proxy)]
    clips = evaluate(video_tokenizer.double(), clip_batches(batch_size=3, frames=2), clip_metrics, **options)
    for out in outs:
        result = loads(out.read_text())
        for expected, parts in ((images, ("uneven", "none")), (clips, ("clips", "no clips"))):
            for part in parts:
                assert_same_results(result[part], expected)
                rivals = numbers_of_rivals(expected)
                assert_close(result[part]["rivals"], rivals, rtol=TOLERANCE, atol=TOLERANCE)
        # Both processes raise the error of one.
        assert "'retina' contains NaN" in result["nan"]
        assert "'coffee' occurs twice" in result["duplicate"]
        assert "no samples" in result["empty"]
        assert "images and clips" in result["mixed"]
        # The default process group, which could be NCCL's with its short time limit, exchanges nothing.
        assert result["collectives"] == {}


def assert_same_results(together, alone):
    """Check that two processes together return what one process returns."""
    assert list(together["samples"]) == list(alone.samples)
    assert [list(row) for row in together["samples"].values()] == [list(row) for row in alone.samples.values()]
    assert_close(together["samples"], alone.samples, rtol=TOLERANCE, atol=TOLERANCE)
    assert_close(together["metrics"], values(alone.metrics), rtol=TOLERANCE, atol=TOLERANCE)
    assert_close(together["baseline"], values(alone.baseline), rtol=TOLERANCE, atol=TOLERANCE)
    assert together["groups"] == [[g.used, g.tokens, pytest.approx(g.perplexity)] for g in alone.codebook.groups]
    assert together["bits"] == pytest.approx([alone.codebook.bits_per_pixel, alone.baseline_bits_per_pixel])
    assert together["examples"] == [example.name for example in alone.examples]
    assert together["processes"] == 2
