"""Progress in logs: at most one line per step, with step, speed, time left and metrics."""

import re

from smalti.trainers.log_progress import LogProgress


def test_each_step_is_printed_once_with_speed_and_metrics(training, trainer, data, capsys):
    run = trainer(LogProgress(seconds=0), max_steps=4, val_check_interval=2, enable_progress_bar=True)
    run.fit(training(), data())
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert [line.partition(",")[0] for line in lines] == ["step 1/4", "step 2/4", "step 3/4", "step 4/4"]
    assert all(re.search(r"[\d.]+ steps/s", line) for line in lines)
    assert all("train/loss" in line for line in lines)
    assert ["val/psnr" in line for line in lines] == [False, True, True, True]


def test_lines_are_at_least_the_given_time_apart(training, trainer, data, capsys):
    run = trainer(LogProgress(seconds=1000), max_steps=4, enable_progress_bar=True, limit_val_batches=0)
    run.fit(training(), data())
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert [line.partition(",")[0] for line in lines] == ["step 1/4", "step 4/4"]
