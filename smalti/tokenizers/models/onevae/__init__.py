"""OneVAE (arXiv 2508.09857) and Wan2.1's VAE (arXiv 2503.20314): causal 3-D video networks.

A clip of 1 + k s frames becomes 1 + k latents. Frame 0 is encoded alone, so an image is a clip of one frame. No frame
depends on later frames, so a clip can be encoded and decoded in chunks. With first-frame strengthening (OneVAE, section
3), the first frame has its own grid of twice the height and width. The module `weight_transfer` initializes a tokenizer
of this family from one with another architecture.
"""

from smalti.tokenizers.models.onevae.decoder import OneVAEDecoder
from smalti.tokenizers.models.onevae.encoder import OneVAEEncoder

__all__ = ["OneVAEDecoder", "OneVAEEncoder"]
