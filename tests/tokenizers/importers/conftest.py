"""The released LTX-Video models, as diffusers and as their publisher describe them."""

from dataclasses import dataclass, field

import pytest

# The arguments of each release where they differ from the defaults of diffusers' AutoencoderKLLTXVideo.
V090 = {
    "block_out_channels": (128, 256, 512, 512),
    "decoder_block_out_channels": (128, 256, 512, 512),
    "layers_per_block": (4, 3, 3, 3, 4),
    "decoder_layers_per_block": (4, 3, 3, 3, 4),
}
V091 = V090 | {
    "decoder_block_out_channels": (256, 512, 1024),
    "decoder_layers_per_block": (5, 6, 7, 8),
    "decoder_spatio_temporal_scaling": (True, True, True),
    "decoder_inject_noise": (True, True, True, False),
    "upsample_residual": (True, True, True),
    "upsample_factor": (2, 2, 2),
    "timestep_conditioning": True,
}
V095 = V091 | {
    "block_out_channels": (128, 256, 512, 1024, 2048),
    "down_block_types": ("LTXVideo095DownBlock3D",) * 4,
    "layers_per_block": (4, 6, 6, 2, 2),
    "decoder_layers_per_block": (5, 5, 5, 5),
    "spatio_temporal_scaling": (True, True, True, True),
    "decoder_inject_noise": (False, False, False, False),
    "downsample_type": ("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
}

# The same networks as block lists of the publisher; those of 0.9.0 are the default.
STAGE = ["res_x", {"num_layers": 5, "inject_noise": False}]
UPSAMPLE = ["compress_all", {"residual": True, "multiplier": 2}]
V091_PUBLISHED = {
    "timestep_conditioning": True,
    "decoder_blocks": [
        ["res_x", {"num_layers": 5, "inject_noise": True}],
        UPSAMPLE,
        ["res_x", {"num_layers": 6, "inject_noise": True}],
        UPSAMPLE,
        ["res_x", {"num_layers": 7, "inject_noise": True}],
        UPSAMPLE,
        ["res_x", {"num_layers": 8, "inject_noise": False}],
    ],
}
V095_PUBLISHED = {
    "timestep_conditioning": True,
    "encoder_blocks": [
        ["res_x", {"num_layers": 4}],
        ["compress_space_res", {"multiplier": 2}],
        ["res_x", {"num_layers": 6}],
        ["compress_time_res", {"multiplier": 2}],
        ["res_x", {"num_layers": 6}],
        ["compress_all_res", {"multiplier": 2}],
        ["res_x", {"num_layers": 2}],
        ["compress_all_res", {"multiplier": 2}],
        ["res_x", {"num_layers": 2}],
    ],
    "decoder_blocks": [STAGE, UPSAMPLE, STAGE, UPSAMPLE, STAGE, UPSAMPLE, STAGE],
}


@dataclass(frozen=True)
class Release:
    """A release of LTX-Video.

    Attributes:
        name: version.
        recipe: the recipe with the same networks.
        arguments: arguments of diffusers' class.
        parameters: parameters of the encoder and the decoder in millions.
        published_config: the publisher's configuration where it differs from the default.
    """

    name: str
    recipe: str
    arguments: dict
    parameters: tuple[float, float]
    published_config: dict = field(default_factory=dict)

    def build_model(self, *, small=False):
        """Return the model of diffusers with random weights, and its configuration."""
        diffusers = pytest.importorskip("diffusers")
        model = diffusers.AutoencoderKLLTXVideo(**self._small_arguments() if small else self.arguments).eval()
        return model, {**model.config, "_class_name": "AutoencoderKLLTXVideo"}

    def _small_arguments(self):
        """Return arguments with sixteen times fewer channels, and numbers of layers that differ from stage to stage."""
        widths = {
            name: tuple(n // 16 for n in self.arguments[name])
            for name in ("block_out_channels", "decoder_block_out_channels")
        }
        decoder_layers = (2, 1, 1, 2, 1)[: len(self.arguments["decoder_layers_per_block"])]
        layers = {"layers_per_block": (1, 2, 1, 1, 2), "decoder_layers_per_block": decoder_layers}
        return {**self.arguments, **widths, **layers, "latent_channels": 6}


RELEASES = [
    Release("0.9.0", "v090", V090, (180.4, 238.8)),
    Release("0.9.1", "v091", V091, (180.4, 754.6), V091_PUBLISHED),
    Release("0.9.5", "v095", V095, (694.1, 552.8), V095_PUBLISHED),
]


@pytest.fixture(params=RELEASES, ids=lambda release: release.name)
def ltx_release(request):
    return request.param
