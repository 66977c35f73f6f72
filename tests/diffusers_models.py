"""Tiny models of the classes of diffusers that Smalti runs, with random weights."""

import torch

_IMAGE = {
    "block_out_channels": [8, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "norm_num_groups": 4,
    "layers_per_block": 1,
    "latent_channels": 4,
}
_WAN = {"base_dim": 8, "z_dim": 4, "dim_mult": [1, 1, 1], "num_res_blocks": 1, "temperal_downsample": [True, True]}
MODELS = {
    "sd": (
        "AutoencoderKL",
        {
            **_IMAGE, "block_out_channels": [8] * 4, "down_block_types": ["DownEncoderBlock2D"] * 4,
            "up_block_types": ["UpDecoderBlock2D"] * 4, "scaling_factor": 0.18215,
        },
    ),
    "flux1": (
        "AutoencoderKL",
        {**_IMAGE, "use_quant_conv": False, "use_post_quant_conv": False, "scaling_factor": 0.3611, "shift_factor": 0.1159},
    ),
    "flux2": ("AutoencoderKLFlux2", _IMAGE),
    "dc": (
        "AutoencoderDC",
        {
            "latent_channels": 8, "attention_head_dim": 4, "scaling_factor": 0.41407,
            "encoder_block_out_channels": [8, 8, 8], "decoder_block_out_channels": [8, 8, 8],
            "encoder_layers_per_block": [1, 1, 1], "decoder_layers_per_block": [1, 1, 1],
            "encoder_qkv_multiscales": [[], [], [5]], "decoder_qkv_multiscales": [[], [], [5]],
            "encoder_block_types": ["ResBlock", "ResBlock", "EfficientViTBlock"],
            "decoder_block_types": ["ResBlock", "ResBlock", "EfficientViTBlock"],
        },
    ),
    "wan21": ("AutoencoderKLWan", {**_WAN, "latents_mean": [0.1] * 4, "latents_std": [2.0] * 4}),
    "wan22": (
        "AutoencoderKLWan",
        {
            **_WAN, "decoder_base_dim": 12, "is_residual": True, "patch_size": 2, "in_channels": 12, "out_channels": 12,
            "latents_mean": [0.1] * 4, "latents_std": [2.0] * 4,
        },
    ),
    "qwen": ("AutoencoderKLQwenImage", {**_WAN, "latents_mean": [0.1] * 4, "latents_std": [2.0] * 4}),
    "hunyuan": (
        "AutoencoderKLHunyuanVideo",
        {"latent_channels": 4, "block_out_channels": [8, 8, 8, 8], "layers_per_block": 1, "norm_num_groups": 4},
    ),
    "hunyuan15": (
        "AutoencoderKLHunyuanVideo15",
        {
            "latent_channels": 4, "block_out_channels": [8, 8, 16], "layers_per_block": 1, "spatial_compression_ratio": 4,
            "temporal_compression_ratio": 4,
        },
    ),
    "cosmos": (
        "AutoencoderKLCosmos",
        {
            "latent_channels": 4, "encoder_block_out_channels": [8, 8, 8, 8], "decode_block_out_channels": [8, 8, 8, 8],
            "attention_resolutions": [8], "resolution": 32, "num_layers": 1, "patch_size": 2,
            "temporal_compression_ratio": 4, "spatial_compression_ratio": 4,
        },
    ),
    "ltx": (
        "AutoencoderKLLTXVideo",
        {
            "latent_channels": 4, "block_out_channels": [8, 8], "down_block_types": ["LTXVideoDownBlock3D"] * 2,
            "decoder_block_out_channels": [8, 8], "layers_per_block": [1, 1, 1], "decoder_layers_per_block": [1, 1, 1],
            "spatio_temporal_scaling": [True, False], "decoder_spatio_temporal_scaling": [True, False],
            "decoder_inject_noise": [False] * 3, "downsample_type": ["conv"] * 2, "upsample_residual": [False] * 2,
            "upsample_factor": [1] * 2, "patch_size": 2, "timestep_conditioning": True,
        },
    ),
    "vidtok": ("AutoencoderVidTok", {"ch": 8, "ch_mult": [1, 1, 1], "z_channels": 4, "num_res_blocks": 1}),
    "vidtok_fsq": (
        "AutoencoderVidTok",
        {
            "ch": 8, "ch_mult": [1, 1, 1], "z_channels": 3, "num_res_blocks": 1, "double_z": False, "regularizer": "fsq",
            "codebook_size": 512,
        },
    ),
}  # fmt: skip
"""Class and arguments of each model, by name."""

IMAGE_MODELS = ("sd", "flux1", "flux2", "dc")


def build(name):
    """Return a model of diffusers in evaluation mode, without the paths that change its function."""
    import diffusers

    class_name, arguments = MODELS[name]
    torch.manual_seed(0)
    model = getattr(diffusers, class_name)(**arguments).eval()
    for path in ("use_framewise_encoding", "use_framewise_decoding"):
        if hasattr(model, path):
            setattr(model, path, False)
    return model


def write(name, folder):
    """Write a model to a folder, and return the path with which Smalti loads it."""
    build(name).save_pretrained(folder)
    return f"diffusers:{folder}"
