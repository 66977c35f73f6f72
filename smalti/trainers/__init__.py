"""How a tokenizer is trained: the Lightning module, losses, adversary and callbacks."""

from smalti.trainers.adversary import Adversary, PatchDiscriminator
from smalti.trainers.callbacks import Checkpoints, ReconstructionGrid, Throughput, TokenizerEMA, WarmStart
from smalti.trainers.losses import PerceptualLoss
from smalti.trainers.module import TokenizerTraining

__all__ = [
    "Adversary",
    "Checkpoints",
    "PatchDiscriminator",
    "PerceptualLoss",
    "ReconstructionGrid",
    "Throughput",
    "TokenizerEMA",
    "TokenizerTraining",
    "WarmStart",
]
