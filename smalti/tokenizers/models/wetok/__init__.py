"""WeTok (arXiv 2508.05599): a 2-D encoder and decoder based on MAGVIT-v2 (arXiv 2310.05737).

Videos are encoded and decoded frame by frame. `WeTokEncoder` and `WeTokDecoder` are a deterministic pair;
`WeTokGenerativeDecoder` draws noise and generates the detail that high compression has lost.
"""

from smalti.tokenizers.models.wetok.builder import wetok
from smalti.tokenizers.models.wetok.decoder import WeTokDecoder, WeTokGenerativeDecoder
from smalti.tokenizers.models.wetok.encoder import WeTokEncoder

__all__ = ["WeTokDecoder", "WeTokEncoder", "WeTokGenerativeDecoder", "wetok"]
