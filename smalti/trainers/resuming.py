"""Resuming from a checkpoint: checking that the recipe fits, and applying settings that have changed."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from smalti.errors import SmaltiError
from smalti.tokenizers.checkpoints import CHECKPOINT_KEY
from smalti.tokenizers.configurable import Config, normalize_config
from smalti.trainers.muon import ADAM_FACTOR_KEY, Muon


def check_resumable(checkpoint: dict[str, Any], config: Config, weight_names: Iterable[str]) -> None:
    """Check that a checkpoint was trained with the tokenizer and the networks of the recipe.

    Configs are compared after normalization: a class that was moved or renamed, or a new constructor argument with a
    default, does not prevent resuming.

    Args:
        checkpoint: a training checkpoint with current names, see `smalti.legacy.upgrade_checkpoint`.
        config: config of the recipe's tokenizer.
        weight_names: names in the state dict of the training module.

    Raises:
        SmaltiError: the checkpoint belongs to another tokenizer or another recipe.
    """
    if CHECKPOINT_KEY not in checkpoint or normalize_config(checkpoint[CHECKPOINT_KEY]) != normalize_config(config):
        raise SmaltiError(
            "The checkpoint was trained with another tokenizer than the recipe's: resume with the config.yaml in the "
            "folder of its run, or start from its weights with --warm_start.path."
        )
    found, expected = set(checkpoint["state_dict"]), set(weight_names)
    if different := sorted(found ^ expected):
        name = different[0]
        where = "only in the checkpoint" if name in found else "only in the recipe"
        raise SmaltiError(
            f"The checkpoint was trained with another recipe: the weight '{name}' is {where}; resume with the config.yaml "
            "in the folder of its run, or start from its weights with --warm_start.path."
        )


def apply_optimizer_settings(checkpoint: dict[str, Any], optimizer: Optimizer, scheduler: LRScheduler | None) -> None:
    """Replace the settings of the optimizer and of the schedule in a checkpoint with those of the recipe.

    A checkpoint contributes weights, the optimizer's averages, and the position in the schedule. Lightning would also
    restore the learning rate, the betas and the length of the schedule, and ignore them in the recipe. Without a change in
    the recipe, the result equals the state of the checkpoint.

    Args:
        checkpoint: a training checkpoint, changed in place.
        optimizer: new optimizer of the recipe, which is only read.
        scheduler: new schedule of the recipe on this optimizer, stepped once per optimizer step; None: constant.

    Raises:
        SmaltiError: the optimizer has other parameters, the checkpoint was trained with Muon and the optimizer is another
            one, or the schedule ends before the position of the checkpoint.
    """
    states, schedules = checkpoint.get("optimizer_states") or [], checkpoint.get("lr_schedulers") or []
    if len(states) != 1:
        return
    groups = states[0]["param_groups"]
    if [len(g["params"]) for g in groups] != [len(g["params"]) for g in optimizer.param_groups]:
        raise SmaltiError(
            "The checkpoint was trained with other parameters than the recipe trains: resume with the same model.frozen, "
            "or start from its weights with --warm_start.path."
        )
    if any(ADAM_FACTOR_KEY in group for group in groups) and not isinstance(optimizer, Muon):
        raise SmaltiError(
            f"The checkpoint was trained with Muon, and {type(optimizer).__name__} cannot continue its averages: resume "
            "with model.optimizer Muon, or start from its weights with --warm_start.path."
        )
    if scheduler is not None:
        steps = schedules[0].get("last_epoch", checkpoint["global_step"]) if schedules else checkpoint["global_step"]
        _advance(scheduler, steps)
    for group, new in zip(groups, optimizer.param_groups, strict=True):
        group.update({name: new[name] for name in new if _is_setting(name, optimizer)})
    checkpoint["lr_schedulers"] = [] if scheduler is None else [scheduler.state_dict()]


def _advance(scheduler: LRScheduler, steps: int) -> None:
    """Step a schedule. This computes the same learning rates as a run with this schedule from the start."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step", category=UserWarning)
        try:
            for _ in range(steps):
                scheduler.step()
        except ValueError as error:
            raise SmaltiError(
                f"The checkpoint is at step {steps}, where the recipe's schedule {type(scheduler).__name__} has already "
                f"ended ({error}): make it longer, for example with --model.scheduler.total_steps."
            ) from error


def _is_setting(name: str, optimizer: Optimizer) -> bool:
    """Return whether an entry of a parameter group is a setting: an argument of the optimizer, or added by a schedule.

    Some optimizers also keep numbers there that they update in each step.
    """
    arguments = inspect.signature(type(optimizer)).parameters
    return name != "params" and (name in arguments or name not in optimizer.defaults)
