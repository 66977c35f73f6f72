"""What devices compute in hardware."""

from __future__ import annotations

import torch


def has_bfloat16(device_type: str) -> bool:
    """Return whether devices of a type multiply matrices of bfloat16 in hardware.

    Other CPUs emulate bfloat16, which takes several times as long as float32.

    Args:
        device_type: "cpu": True with AMX or AVX512-BF16; "cuda": True from compute capability 8.0 on; others: False.
    """
    if device_type == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities() if device_type == "cpu" else {}
    return any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_bf16"))
