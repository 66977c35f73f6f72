"""How a tokenizer is trained: the Lightning module, losses, adversaries and callbacks."""

from smalti.trainers.adversary import Adversary, ReconstructionAdversary
from smalti.trainers.callbacks import Checkpoints, Throughput, TokenizerEMA
from smalti.trainers.discriminators import PatchDiscriminator, TemporalDiscriminator
from smalti.trainers.losses import PerceptualLoss
from smalti.trainers.module import TokenizerTraining
from smalti.trainers.pictures import ReconstructionGrid
from smalti.trainers.statistics import MeasureLatents
from smalti.trainers.warm_start import WarmStart
from smalti.trainers.wavelets import WaveletLoss

__all__ = [
    "Adversary",
    "Checkpoints",
    "MeasureLatents",
    "PatchDiscriminator",
    "PerceptualLoss",
    "ReconstructionAdversary",
    "ReconstructionGrid",
    "TemporalDiscriminator",
    "Throughput",
    "TokenizerEMA",
    "TokenizerTraining",
    "WarmStart",
    "WaveletLoss",
]
