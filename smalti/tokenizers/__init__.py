"""Tokenizers (encoder, bottleneck, decoder) in plain PyTorch, without code for training, data or metrics."""

from smalti.tokenizers.adapters import LoRADecoder
from smalti.tokenizers.base import Decoder, Encoder, StreamState
from smalti.tokenizers.channels import ChannelDecoder, ChannelEncoder, with_channels
from smalti.tokenizers.configurable import Configurable
from smalti.tokenizers.models.cosmos import CosmosDecoder, CosmosEncoder, cosmos
from smalti.tokenizers.models.diffusers import DiffusersDecoder, DiffusersEncoder
from smalti.tokenizers.models.ltx import LTXDecoder, LTXEncoder, ltx
from smalti.tokenizers.models.onevae import OneVAEDecoder, OneVAEEncoder, onevae
from smalti.tokenizers.models.uniwetok import UniWeTokDecoder, UniWeTokEncoder, uniwetok
from smalti.tokenizers.models.wetok import WeTokDecoder, WeTokEncoder, WeTokGenerativeDecoder, wetok
from smalti.tokenizers.pretrained import pretrained
from smalti.tokenizers.tiling import TiledDecoder, TiledEncoder
from smalti.tokenizers.tokenizer import Tokenizer

__all__ = [
    "ChannelDecoder",
    "ChannelEncoder",
    "Configurable",
    "CosmosDecoder",
    "CosmosEncoder",
    "Decoder",
    "DiffusersDecoder",
    "DiffusersEncoder",
    "Encoder",
    "LTXDecoder",
    "LTXEncoder",
    "LoRADecoder",
    "OneVAEDecoder",
    "OneVAEEncoder",
    "StreamState",
    "TiledDecoder",
    "TiledEncoder",
    "Tokenizer",
    "UniWeTokDecoder",
    "UniWeTokEncoder",
    "WeTokDecoder",
    "WeTokEncoder",
    "WeTokGenerativeDecoder",
    "cosmos",
    "ltx",
    "onevae",
    "pretrained",
    "uniwetok",
    "wetok",
    "with_channels",
]
