"""CPU time of a training step of WeTok's and OneVAE's networks with channels last in memory against PyTorch's format.

    python benchmarks/memory_format.py                                       # quickstart.yaml, 8 x 64 x 64
    python benchmarks/memory_format.py --recipe wetok/f16.yaml --channels 32 --batch 2 --size 128
    python benchmarks/memory_format.py --recipe onevae/quickstart.yaml --frames 17 --batch 2

Both run in one process and alternate: forward and backward pass of the tokenizer with an L1 loss on random pixels. Networks
with group norms use PyTorch's format (`smalti.tokenizers.models.wetok.blocks.to_images`), and this shows why.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from smalti.cli.build_tokenizer import build_tokenizer
from smalti.tokenizers.layers.frames import channels_last_images, channels_last_video, video_to_images
from smalti.tokenizers.models.onevae import causal_conv
from smalti.tokenizers.models.onevae import decoder as onevae_decoder
from smalti.tokenizers.models.onevae import encoder as onevae_encoder
from smalti.tokenizers.models.wetok import decoder as wetok_decoder
from smalti.tokenizers.models.wetok import encoder as wetok_encoder

Format = Callable[[Tensor, int | None], Tensor]


def _prepend_zeros(_layer: object, x: Tensor, _state: object) -> Tensor:
    """Do what `prepend_history` does at the beginning of a clip, in the format of x."""
    return torch.cat([x.new_zeros(*x.shape[:2], 2, *x.shape[3:]), x], dim=2)


FORMATS: dict[str, tuple[Format, Callable[[Tensor], Tensor], Callable[..., Tensor]]] = {
    "channels first": (lambda x, groups: video_to_images(x), lambda x: x, _prepend_zeros),
    "channels last": (
        lambda x, groups: channels_last_images(x.permute(0, 2, 3, 4, 1)),
        channels_last_video,
        causal_conv.prepend_history,
    ),
}
"""What the networks of WeTok, the networks of OneVAE, and OneVAE's convolutions call."""


def use_format(name: str) -> None:
    """Let all networks compute in a format."""
    wetok_encoder.to_images = wetok_decoder.to_images = FORMATS[name][0]
    onevae_encoder.channels_last_video = onevae_decoder.channels_last_video = FORMATS[name][1]
    causal_conv.prepend_history = FORMATS[name][2]


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="quickstart.yaml", help="(default: %(default)s)")
    parser.add_argument("--channels", type=int, help="base number of channels (default: the recipe's)")
    parser.add_argument("--size", type=int, default=64, help="height and width in pixels (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=8, help="images or clips per step (default: %(default)s)")
    parser.add_argument("--frames", type=int, help="frames of a clip (default: images)")
    parser.add_argument("--rounds", type=int, default=11, help="rounds after the warm-up (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="(default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    narrow = f"{{model: {{tokenizer: {{init_args: {{channels: {options.channels}}}}}}}}}"
    tokenizer = build_tokenizer(options.recipe, *([narrow] if options.channels else [])).train()
    clip = [] if options.frames is None else [options.frames]
    shape = (options.batch, *clip, options.size, options.size)
    x = torch.rand(options.batch, 3, *shape[1:]) * 2 - 1
    seconds: dict[str, list[float]] = {name: [] for name in FORMATS}
    for _ in range(options.rounds + 1):
        for name in FORMATS:
            use_format(name)
            start = time.process_time()
            tokenizer.zero_grad()
            F.l1_loss(tokenizer(x)[0], x).backward()
            seconds[name].append(time.process_time() - start)
    print(f"{options.recipe}, {' x '.join(map(str, shape))}, {options.threads} threads\n")
    print("| format | CPU s | relative to channels first | quartiles |\n|---|---|---|---|")
    for name, values in seconds.items():
        ratios = [a / b for a, b in zip(values[1:], seconds["channels first"][1:], strict=True)]
        low, median, high = statistics.quantiles(ratios, n=4)
        print(f"| {name} | {statistics.median(values[1:]):.3f} | {median:.2f} | {low:.2f} to {high:.2f} |")


if __name__ == "__main__":
    main()
