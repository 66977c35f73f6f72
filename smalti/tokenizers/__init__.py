"""What is trained and shipped: plain torch, no Lightning, no data, no metrics."""

from smalti.tokenizers.models.ltx.decoder import LTXDecoder
from smalti.tokenizers.models.ltx.encoder import LTXEncoder
from smalti.tokenizers.models.onevae.decoder import OneVAEDecoder
from smalti.tokenizers.models.onevae.encoder import OneVAEEncoder
from smalti.tokenizers.models.wetok.decoder import WeTokDecoder, WeTokGenerativeDecoder
from smalti.tokenizers.models.wetok.encoder import WeTokEncoder
from smalti.tokenizers.tokenizer import Tokenizer

__all__ = [
    "LTXDecoder",
    "LTXEncoder",
    "OneVAEDecoder",
    "OneVAEEncoder",
    "Tokenizer",
    "WeTokDecoder",
    "WeTokEncoder",
    "WeTokGenerativeDecoder",
]
