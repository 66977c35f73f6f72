"""OneVAE (arXiv 2508.09857) and Wan2.1's VAE (arXiv 2503.20314): causal 3-D video networks.

A clip of 1 + k s frames becomes 1 + k latents, for a temporal stride s. Frame 0 is encoded alone: an image is a clip of one
frame. No frame depends on later frames: clips can be encoded and decoded in chunks. With first-frame strengthening (OneVAE,
section 3), the first frame has a separate grid of twice the height and width. The module `weight_transfer` initializes a
tokenizer of this family from one with another architecture.
"""

from smalti.tokenizers.models.onevae.builder import onevae
from smalti.tokenizers.models.onevae.decoder import OneVAEDecoder
from smalti.tokenizers.models.onevae.encoder import OneVAEEncoder

__all__ = ["OneVAEDecoder", "OneVAEEncoder", "onevae"]
