"""Tokenizers (encoder, bottleneck, decoder) in plain PyTorch, without code for training, data or metrics."""

from smalti.tokenizers.base import Decoder, Encoder, StreamState
from smalti.tokenizers.configurable import Configurable
from smalti.tokenizers.models.ltx import LTXDecoder, LTXEncoder, ltx
from smalti.tokenizers.models.onevae import OneVAEDecoder, OneVAEEncoder, onevae
from smalti.tokenizers.models.uniwetok import UniWeTokDecoder, UniWeTokEncoder, uniwetok
from smalti.tokenizers.models.wetok import WeTokDecoder, WeTokEncoder, WeTokGenerativeDecoder, wetok
from smalti.tokenizers.tiling import TiledDecoder, TiledEncoder
from smalti.tokenizers.tokenizer import Tokenizer

__all__ = [
    "Configurable",
    "Decoder",
    "Encoder",
    "LTXDecoder",
    "LTXEncoder",
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
    "ltx",
    "onevae",
    "uniwetok",
    "wetok",
]
