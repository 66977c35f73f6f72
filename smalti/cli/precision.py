"""The precision of training that is fastest on a device: trainer.precision auto."""

from __future__ import annotations

AUTO = "auto"
"""The value of `trainer.precision` that stands for `fastest_precision`."""


def fastest_precision(accelerator: str) -> str:
    """Return "bf16-mixed" where bfloat16 is computed in hardware, else "32-true".

    These are CPUs with AMX or AVX512-BF16, where a training step takes about half of the time, and CUDA devices from
    compute capability 8.0 on. Other CPUs emulate bfloat16, which takes several times as long as float32.

    Args:
        accelerator: the setting `trainer.accelerator`: cpu, gpu, cuda, mps or auto.
    """
    import torch

    on_gpu = accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.accelerator.is_available())
    if on_gpu:
        supported = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = torch.cpu.get_capabilities()
        supported = any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_bf16"))
    return "bf16-mixed" if supported else "32-true"
