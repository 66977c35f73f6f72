"""LTX-Video's VAE (arXiv 2501.00103): 3-D video networks that are built from lists of blocks.

In the published models, 32x32 pixels x 8 frames become one latent position, and a clip of 1 + 8 k frames becomes 1 + k
latents. The encoder is causal. The decoder is causal, or each of its layers looks one frame ahead, and it holds frames back
in a stream. The decoder can also perform the last denoising step: it then takes slightly noisy latents and is conditioned
on the timestep.
"""

from smalti.tokenizers.models.ltx.builder import ltx
from smalti.tokenizers.models.ltx.decoder import LTXDecoder
from smalti.tokenizers.models.ltx.encoder import LTXEncoder

__all__ = ["LTXDecoder", "LTXEncoder", "ltx"]
