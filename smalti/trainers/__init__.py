"""Training: the Lightning module, losses, discriminators and callbacks."""

from smalti.trainers.audit import Audit
from smalti.trainers.checkpointing import Checkpoints
from smalti.trainers.curriculum import Curriculum
from smalti.trainers.discriminators import Discriminator, PatchDiscriminator, TemporalDiscriminator
from smalti.trainers.ema import TokenizerEMA
from smalti.trainers.gan import GANLoss, ReconstructionGANLoss
from smalti.trainers.health import Health
from smalti.trainers.latent_augmentations import LatentAugmentation, LatentDenoising, LatentEquivariance
from smalti.trainers.latent_statistics import LatentStatisticsCallback
from smalti.trainers.losses import (
    DistillationLoss,
    LatentAlignment,
    LatentLoss,
    LatentRestoration,
    Loss,
    PerceptualLoss,
    ReconstructionLoss,
    WaveletLoss,
)
from smalti.trainers.module import TokenizerTraining
from smalti.trainers.muon import Muon
from smalti.trainers.rank_watch import RankWatch
from smalti.trainers.schedules import WarmupSchedule
from smalti.trainers.start import Start
from smalti.trainers.throughput import Throughput
from smalti.trainers.visualization import ReconstructionGrid
from smalti.trainers.warm_start import WarmStart

__all__ = [
    "Audit",
    "Checkpoints",
    "Curriculum",
    "Discriminator",
    "DistillationLoss",
    "GANLoss",
    "Health",
    "LatentAlignment",
    "LatentAugmentation",
    "LatentDenoising",
    "LatentEquivariance",
    "LatentLoss",
    "LatentRestoration",
    "LatentStatisticsCallback",
    "Loss",
    "Muon",
    "PatchDiscriminator",
    "PerceptualLoss",
    "RankWatch",
    "ReconstructionGANLoss",
    "ReconstructionGrid",
    "ReconstructionLoss",
    "Start",
    "TemporalDiscriminator",
    "Throughput",
    "TokenizerEMA",
    "TokenizerTraining",
    "WarmStart",
    "WarmupSchedule",
    "WaveletLoss",
]
