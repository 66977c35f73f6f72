"""The model card of an exported tokenizer."""

from __future__ import annotations

import json
from typing import Any

from smalti.channel_groups import RGB, describe_groups
from smalti.tokenizers.summary import millions
from smalti.tokenizers.tokenizer import Tokenizer


def model_card(tokenizer: Tokenizer, config: dict[str, Any]) -> str:
    """Return a short model card in Markdown.

    Args:
        tokenizer: the tokenizer that the card describes.
        config: the content of its `config.json`.
    """
    table = "\n".join(f"| {name} | {value} |" for name, value in _properties(tokenizer, config))
    noise = (
        "\nThe decoder is generative: pass a seeded `torch.Generator` to choose the noise.\n"
        if tokenizer.decoder.generative
        else ""
    )
    encode, decode = ("tokenize", "detokenize") if tokenizer.discrete else ("encode", "decode")
    result = "tokens" if tokenizer.discrete else "latents"
    if tokenizer.channels == RGB:
        load = 'pixels = smalti.load_image("photo.jpg")  # (1, 3, H, W) in [-1, 1], any size'
        show = 'smalti.save_image({}, "reconstruction.png")  # the same size'
    else:
        count, names = sum(tokenizer.channels.values()), describe_groups(tokenizer.channels)
        load = f'pixels = BandFolder("my/bands")[0][None]  # (1, {count}, H, W) in [-1, 1]: {names}'
        load = f"from smalti.data import BandFolder\n\n{load}"
        show = "reconstruction = {}  # the same size"
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
{load}
{result} = tokenizer.{encode}(pixels)
{show.format(f"tokenizer.{decode}({result})")}
```
{noise}
## Provenance

```json
{provenance}
```
"""


def _properties(tokenizer: Tokenizer, config: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the rows of the table: name and value."""
    encoder, bottleneck, decoder = tokenizer.encoder, tokenizer.bottleneck, tokenizer.decoder
    t, h, w = encoder.stride
    rows = [
        ("encoder", f"{type(encoder).__name__}, {millions(encoder)} parameters"),
        ("bottleneck", type(bottleneck).__name__),
        ("decoder", f"{type(decoder).__name__}, {millions(decoder)} parameters"),
        ("stride (frames, height, width)", f"{t} x {h} x {w}"),
    ]
    if tokenizer.discrete:
        quantizer = tokenizer.quantizer
        rows += [
            ("tokens per latent position", f"{quantizer.tokens_per_position}"),
            ("codebook size", f"{quantizer.codebook_size:,}"),
            ("bits per latent position", f"{quantizer.bits_per_position:g}"),
            ("bits per pixel", f"{tokenizer.bits_per_pixel:.4g}"),
            ("compression ratio to 24-bit RGB", f"{tokenizer.compression_ratio:.4g}"),
        ]
    return [*rows, ("SHA-256 of the weights", f"`{config['sha256']}`"), ("smalti version", str(config["smalti"]))]
