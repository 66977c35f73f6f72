"""What is trained and shipped: plain torch, no Lightning, no data, no metrics."""

from smalti.tokenizers.tokenizer import Tokenizer
from smalti.tokenizers.wetok import WeTokDecoder, WeTokEncoder, WeTokGenerativeDecoder

__all__ = ["Tokenizer", "WeTokDecoder", "WeTokEncoder", "WeTokGenerativeDecoder"]
