"""The sweep over learning rates: the same start and the same batches for each, and what it suggests."""

import pytest
import torch

from smalti.trainers.learning_rate_sweep import (
    LearningRateSweep,
    RepeatedBatches,
    SweepPoint,
    choose_rate,
    default_rates,
)


def sweep(training, trainer, data, rates, steps=4, **options):
    """Run a sweep, and return it with the reports and the rows of the recorder."""
    reports = []
    callback = LearningRateSweep(steps, rates, lambda *report: reports.append(report))
    run = trainer(callback, max_steps=-1, max_epochs=-1, limit_val_batches=0)
    module = data()
    build = module.train_dataloader
    module.train_dataloader = lambda: RepeatedBatches(build(), steps)
    run.fit(training(gan=False, **options), datamodule=module)
    return callback, reports, run.recorder.rows


def test_each_learning_rate_has_the_same_start_and_the_same_batches(training, trainer, data):
    done, reports, rows = sweep(training, trainer, data, [1e-3, 1e-3, 1e-2])
    assert len(rows) == 12
    first, second, third = rows[:4], rows[4:8], rows[8:]
    assert [row["names"] for row in first] == [row["names"] for row in second] == [row["names"] for row in third]
    for row, other in zip(first, second, strict=True):
        assert row["train/l1"] == other["train/l1"]  # equal learning rates give equal runs, bit by bit
    assert third[0]["train/l1"] == first[0]["train/l1"]
    assert third[-1]["train/l1"] != first[-1]["train/l1"]
    assert [point.rate for point in done.points] == [1e-3, 1e-3, 1e-2]
    assert [left for _, left, _ in reports] == [2, 1, 0]
    assert done.base_rate == 1e-3


def test_a_learning_rate_that_diverges_does_not_end_the_sweep(training, trainer, data):
    done, *_ = sweep(training, trainer, data, [1e-3, 1e30])
    assert done.points[0].psnr is not None
    assert done.points[1] == SweepPoint(1e30, None, gray=False)
    assert choose_rate(done.points) in (done.points[0], None)


def test_the_mean_color_is_that_of_the_last_batches(training, trainer, data):
    done, _, _ = sweep(training, trainer, data, [1e-3], steps=2)
    pixels = [batch.pixels for batch in data().train_dataloader()][1]
    error = (pixels - pixels.transpose(0, 1).flatten(1).mean(1).view(1, 3, 1, 1)).square().mean()
    assert done.mean_color_psnr == pytest.approx(float(10 * torch.log10(4 / error)), abs=1e-3)


def points(*psnr):
    """Return points with learning rates 1, 2, 4, ...; 0 is gray and None diverged."""
    return [SweepPoint(2.0**index, value, gray=value == 0) for index, value in enumerate(psnr)]


@pytest.mark.parametrize(
    ("psnr", "expected"),
    [
        ((14.0, 16.0, 17.0, 16.0), 4.0),
        ((14.0, 16.0, 17.0, 0), 4.0),  # the one below is much worse
        ((14.0, 16.8, 17.0, 0), 2.0),  # the one below is as good, and further away from one that fails
        ((14.0, 16.8, 17.0, None), 2.0),
        ((17.0, 0, 0), 1.0),
        ((0, None, 0), None),
    ],
)
def test_the_best_learning_rate_is_chosen_unless_it_is_next_to_one_that_fails(psnr, expected):
    chosen = choose_rate(points(*psnr))
    assert (None if chosen is None else chosen.rate) == expected


def test_default_rates_surround_that_of_the_recipe():
    assert default_rates(1e-3) == pytest.approx([1e-3 * 2.0**k for k in range(-4, 4)])
