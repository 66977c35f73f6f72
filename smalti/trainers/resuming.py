"""Checking that a recipe can resume from a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from smalti.errors import SmaltiError
from smalti.tokenizers.checkpoints import CHECKPOINT_KEY
from smalti.tokenizers.configurable import Config, normalize_config


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
