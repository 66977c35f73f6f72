"""Bottlenecks between encoder and decoder: continuous (KL), discrete (all quantizers), or both (Joint).

`VQ`, `SimVQ`, `ResidualVQ` and `ResidualFSQ` need vector-quantize-pytorch, which is imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from smalti.tokenizers.bottlenecks.base import Bottleneck, Quantizer
from smalti.tokenizers.bottlenecks.bsq import BSQ
from smalti.tokenizers.bottlenecks.fsq import FSQ
from smalti.tokenizers.bottlenecks.gq import GQ
from smalti.tokenizers.bottlenecks.identity import Identity
from smalti.tokenizers.bottlenecks.joint import Joint
from smalti.tokenizers.bottlenecks.kl import KL
from smalti.tokenizers.bottlenecks.projected import Projected
from smalti.tokenizers.bottlenecks.unquantized import Unquantized

if TYPE_CHECKING:
    from smalti.tokenizers.bottlenecks.residual_fsq import ResidualFSQ
    from smalti.tokenizers.bottlenecks.residual_vq import ResidualVQ
    from smalti.tokenizers.bottlenecks.simvq import SimVQ
    from smalti.tokenizers.bottlenecks.vq import VQ

__all__ = [
    "BSQ", "FSQ", "GQ", "KL", "VQ", "Bottleneck", "Identity", "Joint", "Projected", "Quantizer", "ResidualFSQ",
    "ResidualVQ", "SimVQ", "Unquantized",
]  # fmt: skip

_ADAPTERS = {"VQ": "vq", "SimVQ": "simvq", "ResidualVQ": "residual_vq", "ResidualFSQ": "residual_fsq"}


def __getattr__(name: str) -> Any:
    """Import an adapter on first use: loading any other tokenizer must need only torch and safetensors."""
    if name not in _ADAPTERS:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"smalti.tokenizers.bottlenecks.{_ADAPTERS[name]}"), name)
