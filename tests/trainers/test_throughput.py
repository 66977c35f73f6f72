"""Logging of training speed."""

import pytest

from smalti.trainers import Throughput


def test_steps_and_samples_per_second(training, trainer, data):
    """A step has two micro-batches of two photos."""
    run = trainer(Throughput(), max_steps=3, accumulate_grad_batches=2, val_check_interval=2, limit_val_batches=1)
    run.fit(training(gan=False), data())
    steps, samples = (run.callback_metrics[f"train/{name}_per_second"] for name in ("steps", "samples"))
    assert steps > 0
    assert float(samples / steps) == pytest.approx(4)
