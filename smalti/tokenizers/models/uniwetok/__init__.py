"""UniWeTok (arXiv 2602.14178): WeTok's convolutions with attention at the resolution of the latents, and bounded latents.

Images are encoded to one grid of many bits per position, such as 128. The decoder draws noise. Videos are encoded and
decoded frame by frame.
"""

from smalti.tokenizers.models.uniwetok.builder import uniwetok
from smalti.tokenizers.models.uniwetok.decoder import UniWeTokDecoder
from smalti.tokenizers.models.uniwetok.encoder import UniWeTokEncoder

__all__ = ["UniWeTokDecoder", "UniWeTokEncoder", "uniwetok"]
