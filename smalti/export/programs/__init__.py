"""A tokenizer as two programs, an encoder and a decoder, that run without Smalti: torch.export, AOTInductor, ONNX.

`save_programs` writes them, with golden vectors; `load_programs` runs them and checks the golden vectors; `verify` compares
them with the tokenizer on real samples.
"""

from __future__ import annotations

from smalti.export.programs.load import load_programs
from smalti.export.programs.runner import Programs
from smalti.export.programs.save import save_programs

__all__ = ["Programs", "load_programs", "save_programs"]
