"""Each check finds its problem, says so in one sentence with the numbers, and stays silent about a healthy record."""

from dataclasses import replace

import pytest
import torch

from smalti.trainers.health.checks import run_checks
from smalti.trainers.health.code_usage import CodeUsage, GaussianSums, PartCounts
from smalti.trainers.health.colors import Colors
from smalti.trainers.health.loss_gradients import PIXELS
from smalti.trainers.health.record import HealthRecord, HistoryPoint, TrainingRecord

BASELINES = {"mean_color": 12.0, "bicubic": 20.0, "linear_codec": 24.0}


def history(*psnr, **options):
    return [HistoryPoint(100 * index, value, **options) for index, value in enumerate(psnr, 1)]


def colors(contrast=0.9, saturation=0.9, cast=(0.0, 0.0, 0.0)):
    return Colors(4, [2.0, 2.0 * contrast], [1.0, saturation], [4 * value / 127.5 for value in cast])


def levels(counts, sizes=None):
    counts = torch.tensor(counts)
    return CodeUsage(parts=PartCounts("level", sizes or [counts.shape[-1]] * counts.shape[1], counts))


def gaussian(information):
    """Return sums of 1000 positions whose channels carry some bits each."""
    signal = 4.0 ** torch.tensor(information, dtype=torch.float64) - 1
    one = torch.ones_like(signal)
    return CodeUsage(gaussian=GaussianSums(1000, 0 * one, 1000 * signal, 1000 * one, 500 * signal))


EVEN = levels([[[250] * 4] * 3] * 2)
TRAINING = TrainingRecord(
    history=history(15.0, 20.0, 22.0, 25.0),
    losses={"discriminator": 0.8, "l1": 0.1},
    gan_steps=400,
    chance=1.0,
    weights={"l1": 1.0, "kl": 1e-3, "adversarial": 0.1, "codebook_entropy": -0.1},
    gradient_shares={PIXELS: 0.6, "adversarial": 0.4, "kl": 0.2},
    peak_learning_rate=3e-3,
)
HEALTHY = HealthRecord(400, 25.0, BASELINES, [EVEN, gaussian([2.0, 1.0])], colors(), TRAINING)


def find(record):
    """Return the sentences of the problems, by the names of the checks."""
    return {result.name: str(result) for result in run_checks(record) if result.problem}


def training(**changes):
    return replace(HEALTHY, training=replace(TRAINING, **changes))


def test_a_healthy_record_has_no_problem_and_everything_is_checked():
    assert find(HEALTHY) == {}
    results = {result.name: result for result in run_checks(HEALTHY)}
    assert not any(result.unchecked for result in results.values())
    assert results["baselines"].value == "+5.00 dB against bicubic, +1.00 dB against linear codec"


@pytest.mark.parametrize(
    ("record", "name", "expected"),
    [
        (
            replace(HEALTHY, psnr=12.4, colors=colors(0.1)),
            "stuck at gray",
            "no better than one color: 12.40 dB, one color 12.00 dB, with 10% of the contrast of the originals; try a "
            "third of the learning rate (--model.optimizer.lr 0.001)",
        ),
        (training(history=history(19.0, 20.0, 20.0, 20.01, 20.02)), "no gain", "not improved since step 200 (+0.02 dB)"),
        (training(history=history(20.0, 23.0, 21.0)), "getting worse", "fallen by 2.0 dB since step 200 (23.00 dB)"),
        (replace(HEALTHY, colors=colors(contrast=0.2)), "color", "flat: they have 20% of the contrast"),
        (replace(HEALTHY, colors=colors(saturation=0.1)), "color", "hardly any color: 10% of the saturation"),
        (replace(HEALTHY, colors=colors(cast=(0.0, -12.0, 1.0))), "color", "green is off by -12.0 of 255 levels"),
        (
            replace(HEALTHY, codes=[levels([[[0, 1000, 0, 0], [250] * 4], [[250] * 4] * 2])]),
            "dead bits",
            "1 of 4 channels are constant over 1000 positions; try a third",
        ),
        (
            replace(HEALTHY, codes=[levels([[[0, 1000, 0, 0]] * 2, [[250] * 4] * 2])]),
            "dead bits",
            "2 of 4 channels are constant over 1000 positions, all of token 0; ",
        ),
        (
            replace(HEALTHY, codes=[CodeUsage(parts=PartCounts("bit", [2, 2], torch.tensor([[[0, 1000], [400, 600]]])))]),
            "dead bits",
            "1 of 2 bits are constant over 1000 positions; make the weight of codebook_entropy more negative "
            "(--model.weights.codebook_entropy -0.2)",
        ),
        (
            replace(HEALTHY, codes=[CodeUsage(parts=PartCounts("codeword", [64], 900 * torch.eye(64).long()[None, :1]))]),
            "used bits",
            "uses only 0.0 of 6.0 bits per position (1 of 64 codewords are used); use a smaller codebook",
        ),
        (replace(HEALTHY, codes=[levels([[[20, 960, 10, 10]] * 3])]), "used bits", "uses only 0.9 of 6.0 bits"),
        (
            replace(HEALTHY, codes=[levels([[[480, 20, 20, 480]] * 3])]),
            "saturation",
            "3 of 3 FSQ channels are saturated: 90% or more of their values are at the outermost levels",
        ),
        (
            replace(HEALTHY, codes=[gaussian([0.0, 0.001, 0.0])]),
            "KL channels",
            "All 3 KL channels have collapsed: they carry less than 0.01 bits per position; try a tenth of its weight "
            "(--model.weights.kl 0.0001)",
        ),
        (
            replace(HEALTHY, psnr=12.4, codes=[gaussian([0.0, 0.001, 0.0])]),
            "stuck at gray",
            "of the contrast of the originals; solve the problem of the KL channels first",
        ),
        (replace(HEALTHY, codes=[gaussian([0.0, 0.001, 3.0])]), "KL channels", "2 of 3 KL channels have collapsed"),
        (
            training(losses={"discriminator": 0.01}),
            "discriminator",
            "has won: its loss is 0.010, guessing has 1.000, and the adversarial loss has 40.0% of the gradient; lower its",
        ),
        (training(losses={"discriminator": 0.999}), "discriminator", "has not learned: its loss is 0.999"),
        (
            training(gradient_shares={PIXELS: 0.05, "adversarial": 0.95}),
            "balance of losses",
            "The loss adversarial dominates: it has 95% of the gradient; try a tenth of its weight "
            "(--model.weights.adversarial 0.01)",
        ),
    ],
)  # fmt: skip
def test_a_problem_is_found_and_said_in_one_sentence(record, name, expected):
    found = find(record)
    assert next(iter(found)) == name
    assert len(found) == (2 if "KL channels first" in expected else 1)
    assert expected in found[name]
    assert found[name].endswith(".")
    assert "\n" not in found[name]
    assert found[name][0].isupper() or found[name][0].isdigit()


@pytest.mark.parametrize(
    "record",
    [
        training(history=history(19.0, 20.0, 20.0, 20.0, 20.0, learning_rate=0.1)),  # the end of a schedule
        training(history=history(25.0, 26.0, 23.0, with_gan=True)),  # GAN losses cost PSNR
        training(history=history(15.0, 25.0, 25.0, 25.0, 25.0)),  # above the linear codec
        training(gan_steps=10, losses={"discriminator": 0.0}),
        training(gradient_shares={PIXELS: 1.0}),
        replace(HEALTHY, codes=[levels([[[60, 0, 0, 0]]])]),  # too few positions
        replace(HEALTHY, codes=[levels([[[480, 520]]])]),  # two levels are always outermost
        replace(HEALTHY, codes=[gaussian([0.0, 2.0])]),
        replace(HEALTHY, training=None, baselines={}),
    ],
)
def test_there_is_no_false_alarm(record):
    assert find(record) == {}


def test_what_cannot_be_checked_says_why():
    record = replace(HEALTHY, training=None, baselines={}, codes=[levels([[[100, 0, 0, 0]]])])
    reasons = {result.name: result.unchecked for result in run_checks(record) if result.unchecked}
    assert reasons["stuck at gray"] == "the mean color of the training data is not known"
    assert reasons["dead bits"] == "the data has 100 latent positions, fewer than 256"
    assert reasons["discriminator"] == "only the checkpoint of a run knows its losses"
    assert reasons["KL channels"] == "there is no KL bottleneck"


def test_a_record_in_a_checkpoint_is_restored():
    values = TRAINING.to_dict()
    assert TrainingRecord.from_dict(values) == TRAINING
    assert TrainingRecord.from_dict(values | {"of a later version": 1}) == TRAINING
