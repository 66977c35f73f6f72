"""Health of a run: baselines at every validation, and checks that say what is wrong and what to try."""

from smalti.eval.linear_codec import CODEC_FILE
from smalti.trainers.health.callback import Health, fit_linear_codec
from smalti.trainers.health.checks import CheckResult, run_checks

__all__ = ["CODEC_FILE", "CheckResult", "Health", "fit_linear_codec", "run_checks"]
