"""The model card that travels with an exported tokenizer."""

from __future__ import annotations

import json
from typing import Any

from smalti.tokenizers.tokenizer import Tokenizer


def model_card(tokenizer: Tokenizer, config: dict[str, Any]) -> str:
    """A short model card in Markdown.

    Args:
        tokenizer: what the card is of.
        config: what `config.json` holds.
    """
    encoder, bottleneck, decoder = tokenizer.encoder, tokenizer.bottleneck, tokenizer.decoder
    t, h, w = encoder.stride
    rows = [
        ("encoder", f"{type(encoder).__name__}, {_millions(encoder)} parameters"),
        ("bottleneck", type(bottleneck).__name__),
        ("decoder", f"{type(decoder).__name__}, {_millions(decoder)} parameters"),
        ("stride (frames, height, width)", f"{t} x {h} x {w}"),
    ]
    if tokenizer.discrete:
        quantizer = tokenizer.quantizer
        rows += [
            ("tokens a position", f"{quantizer.tokens_per_position} of {quantizer.codebook_size:,} values each"),
            ("bits a position", f"{quantizer.bits_per_position:g}"),
            ("bits a pixel", f"{tokenizer.bits_per_pixel:.4g}"),
            ("compression of 24-bit RGB", f"{tokenizer.compression_ratio:.4g}x"),
        ]
    rows += [("weights, SHA-256", f"`{config['sha256']}`"), ("written by", f"smalti {config['smalti']}")]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    noise = (
        "\nIts decoder is generative: pass a `torch.Generator` to `detokenize` to choose the noise.\n"
        if decoder.generative
        else ""
    )
    use = (
        "tokens = tokenizer.tokenize(pixels)        # pixels (B, 3, H, W) in [-1, 1], any size\n"
        "pixels = tokenizer.detokenize(tokens)      # the same size again"
        if tokenizer.discrete
        else "latents = tokenizer.encode(pixels)         # pixels (B, 3, H, W) in [-1, 1], any size\n"
        "pixels = tokenizer.decode(latents)         # the same size again"
    )
    provenance = json.dumps(config["provenance"], indent=2)
    return f"""---
library_name: smalti
tags: [visual-tokenizer, {"discrete" if tokenizer.discrete else "continuous"}]
---
# A visual tokenizer

| | |
|---|---|
{table}

```python
import smalti

tokenizer = smalti.load("path/to/this/folder")
{use}
```
{noise}
## Provenance

```json
{provenance}
```
"""


def _millions(part: Any) -> str:
    return f"{sum(p.numel() for p in part.parameters()) / 1e6:.2f}M"
