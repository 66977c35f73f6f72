"""Upgrading names that earlier versions of Smalti wrote into exports, checkpoints and recipes.

Version 0.1 wrote the module path of each class, such as `smalti.tokenizers.wetok.WeTokEncoder`. Later versions write the
public path, such as `smalti.tokenizers.WeTokEncoder`, which stays valid when the class moves to another module. When you
rename a public class or a constructor argument, add a line here: old files must keep loading.
"""

from __future__ import annotations

from typing import Any

_BOTTLENECKS = ("BSQ", "FSQ", "GQ", "Joint", "KL", "Projected", "ResidualFSQ", "ResidualVQ", "SimVQ", "VQ")
_NETWORKS = (
    *("LTXDecoder", "LTXEncoder", "OneVAEDecoder", "OneVAEEncoder", "TiledDecoder", "TiledEncoder"),
    *("WeTokDecoder", "WeTokEncoder", "WeTokGenerativeDecoder"),
)

_TRAINERS = (
    *(
        "Checkpoints",
        "PatchDiscriminator",
        "PerceptualLoss",
        "ReconstructionGrid",
        "TemporalDiscriminator",
        "Throughput",
    ),
    *("TokenizerEMA", "TokenizerTraining", "WarmStart", "WaveletLoss"),
)
_DATA = (
    *("Clips", "Folder", "ImageData", "MixedData", "Photos", "Shards", "VideoData", "VideoFiles", "VideoFolder"),
    "VideoShards",
)

CLASSES: dict[str, str] = {
    "Tokenizer": "smalti.Tokenizer",
    **{name: f"smalti.tokenizers.bottlenecks.{name}" for name in _BOTTLENECKS},
    **{name: f"smalti.tokenizers.{name}" for name in _NETWORKS},
    **{name: f"smalti.trainers.{name}" for name in _TRAINERS},
    **{name: f"smalti.data.{name}" for name in _DATA},
    "Adversary": "smalti.trainers.GANLoss",
    "MeasureLatents": "smalti.trainers.LatentStatisticsCallback",
    "ReconstructionAdversary": "smalti.trainers.ReconstructionGANLoss",
    "Files": "smalti.data.ImageFiles",
}
"""Current public paths of the classes that version 0.1 wrote under another path, by class name in version 0.1."""

ARGUMENTS: dict[str, dict[str, str]] = {
    "smalti.tokenizers.bottlenecks.KL": {"initial_deviation": "initial_std"},
    "smalti.tokenizers.bottlenecks.Joint": {"discrete_share": "discrete_probability"},
}
"""Renamed constructor arguments (old name to new name), by public class path."""

REMOVED_ARGUMENTS: dict[str, frozenset[str]] = {
    # A proxy is used only if the recipe names it as the network.
    "smalti.trainers.PerceptualLoss": frozenset({"stand_in", "allow_proxy"}),
}
"""Constructor arguments that were removed and are ignored, by public class path."""

CHECKPOINT_PREFIXES = {"adversary.": "gan."}
"""Renamed prefixes of weight names in training checkpoints (old to new)."""

CALLBACKS = {"MeasureLatents": "LatentStatisticsCallback"}
"""Renamed callbacks (old to new). Training checkpoints store the state of a callback under its class name."""


def upgrade_config(config: Any) -> Any:
    """Replace old class paths and argument names in a tree of dictionaries and lists.

    Args:
        config: the content of a JSON or YAML file. A class is {"class_path": ..., "init_args": {...}}.

    Returns:
        The upgraded tree; the input is not changed.
    """
    if isinstance(config, list):
        return [upgrade_config(value) for value in config]
    if not isinstance(config, dict):
        return config
    config = {key: upgrade_config(value) for key, value in config.items()}
    path = config.get("class_path")
    if isinstance(path, str):
        config["class_path"] = path = _public_path(path)
        if isinstance(config.get("init_args"), dict):
            cls = CLASSES.get(path, path)  # recipes may give the name alone
            renamed, removed = ARGUMENTS.get(cls, {}), REMOVED_ARGUMENTS.get(cls, frozenset())
            arguments = {name: value for name, value in config["init_args"].items() if name not in removed}
            config["init_args"] = {renamed.get(name, name): value for name, value in arguments.items()}
    return config


def upgrade_recipe(recipe: Any) -> Any:
    """Upgrade a training recipe: replace old class paths, argument names and section names.

    Args:
        recipe: the content of a recipe file. Anything other than a dictionary is returned unchanged.

    Returns:
        The upgraded recipe; the input is not changed.
    """
    if not isinstance(recipe, dict):
        return recipe
    recipe = upgrade_config(recipe)
    if "pictures" in recipe:
        recipe["visualization"] = recipe.pop("pictures")
    start = recipe.get("warm_start")
    if isinstance(start, dict) and "adopt" in start:
        start["transfer"] = start.pop("adopt")
    model = recipe.get("model")
    if isinstance(model, dict):
        if "adversary" in model:
            model["gan"] = model.pop("adversary")
        for name in ("perceptual", "wavelet"):
            if name in model:
                loss = model.pop(name)
                model["losses"] = (model.get("losses") or {}) | ({} if loss is None else {name: loss})
    return recipe


def upgrade_checkpoint(checkpoint: dict[str, Any]) -> None:
    """Rename the weights and callback states of a training checkpoint in place."""
    for key in ("state_dict", "current_model_state"):
        if key in checkpoint:
            checkpoint[key] = {_new_weight_name(name): weight for name, weight in checkpoint[key].items()}
    if "callbacks" in checkpoint:
        states = checkpoint["callbacks"]
        checkpoint["callbacks"] = {_new_callback_name(name): state for name, state in states.items()}


def _public_path(path: str) -> str:
    return CLASSES.get(path.rpartition(".")[2], path) if path.startswith("smalti.") else path


def _new_callback_name(name: str) -> str:
    # The name was followed by the arguments of Lightning's ModelCheckpoint.
    return "Checkpoints" if name.startswith("Checkpoints{") else CALLBACKS.get(name, name)


def _new_weight_name(name: str) -> str:
    for old, new in CHECKPOINT_PREFIXES.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name
