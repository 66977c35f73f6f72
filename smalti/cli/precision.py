"""The precision of training that is fastest on a device: trainer.precision auto."""

from __future__ import annotations

AUTO = "auto"
"""The value of `trainer.precision` that stands for `fastest_precision`."""


def fastest_precision(accelerator: str) -> str:
    """Return "bf16-mixed" where bfloat16 is computed in hardware, else "32-true". See `smalti.hardware.has_bfloat16`.

    A training step then takes about half of the time on a CPU.

    Args:
        accelerator: the setting `trainer.accelerator`: cpu, gpu, cuda, mps or auto.
    """
    import torch

    from smalti.hardware import has_bfloat16

    on_gpu = accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.accelerator.is_available())
    return "bf16-mixed" if has_bfloat16("cuda" if on_gpu else "cpu") else "32-true"
