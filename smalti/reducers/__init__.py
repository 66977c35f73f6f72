"""Reducers: fewer visual tokens for a language model, in plain PyTorch.

All reducers follow one contract: `reducer.reduce(tokens, grid, saliency=..., keys=...)` returns a `Reduced`.
"""

from smalti.reducers import saliency
from smalti.reducers.base import Reduced, Reducer
from smalti.reducers.convllava import ConvNeXtStage
from smalti.reducers.crops import CropTokens, box_to_levels, box_to_tokens
from smalti.reducers.globalcom2 import CropSelection, GlobalCom2
from smalti.reducers.kmeans import kmeans
from smalti.reducers.langdc import AdaptivePool, join_frames_and_clips
from smalti.reducers.latents import expand_latents, reduce_latents
from smalti.reducers.layout import cut, stitch
from smalti.reducers.learned import LatentRestorer, ProjectedReducer, ReducedDecoder, reduced
from smalti.reducers.llava_mini import QueryCompressor
from smalti.reducers.m3 import M3, available_scales, matryoshka_loss
from smalti.reducers.mustdrop import LocalMerge, select_key_tokens
from smalti.reducers.proxyv import ProxyInitializer, ProxyPool
from smalti.reducers.prumerge import PruMerge
from smalti.reducers.quantized_storage import (
    MixedLatents,
    QuantizedLatents,
    quantize_by_saliency,
    quantize_latents,
)
from smalti.reducers.quecc import QueCC
from smalti.reducers.registry import NAMED_REDUCERS, parse_ladder, parse_reducer
from smalti.reducers.scaling_law import Bounds, ScalingLaw, fit_scaling_law, plan_tokens, search_published_grid
from smalti.reducers.stf import MBTF, STF, Fold, concatenate_layers
from smalti.reducers.top_k import TopK
from smalti.reducers.uhd_resampler import SpatialResampler
from smalti.reducers.uhd_slicing import SlicePlan, evaluation_size, plan_slices, slice_image, slice_sequence
from smalti.reducers.vistog import VisToG, isolation_mask
from smalti.reducers.voco import published_voco_mask, to_additive, to_mask_mod, voco_mask
from smalti.reducers.vqtoken import VQAttention, VQToken, elbow

__all__ = [
    "M3",
    "MBTF",
    "NAMED_REDUCERS",
    "STF",
    "AdaptivePool",
    "Bounds",
    "ConvNeXtStage",
    "CropSelection",
    "CropTokens",
    "Fold",
    "GlobalCom2",
    "LatentRestorer",
    "LocalMerge",
    "MixedLatents",
    "ProjectedReducer",
    "ProxyInitializer",
    "ProxyPool",
    "PruMerge",
    "QuantizedLatents",
    "QueCC",
    "QueryCompressor",
    "Reduced",
    "ReducedDecoder",
    "Reducer",
    "ScalingLaw",
    "SlicePlan",
    "SpatialResampler",
    "TopK",
    "VQAttention",
    "VQToken",
    "VisToG",
    "available_scales",
    "box_to_levels",
    "box_to_tokens",
    "concatenate_layers",
    "cut",
    "elbow",
    "evaluation_size",
    "expand_latents",
    "fit_scaling_law",
    "isolation_mask",
    "join_frames_and_clips",
    "kmeans",
    "matryoshka_loss",
    "parse_ladder",
    "parse_reducer",
    "plan_slices",
    "plan_tokens",
    "published_voco_mask",
    "quantize_by_saliency",
    "quantize_latents",
    "reduce_latents",
    "reduced",
    "saliency",
    "search_published_grid",
    "select_key_tokens",
    "slice_image",
    "slice_sequence",
    "stitch",
    "to_additive",
    "to_mask_mod",
    "voco_mask",
]
