"""CPU time of a training step of WeTok's networks with channels last in memory against PyTorch's default format.

    python benchmarks/memory_format.py                                       # quickstart.yaml, 8 x 64 x 64
    python benchmarks/memory_format.py --recipe wetok/f16.yaml --channels 32 --batch 2 --size 128

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
from smalti.tokenizers.layers.frames import channels_last_images, video_to_images
from smalti.tokenizers.models.wetok import decoder, encoder

Format = Callable[[Tensor, int | None], Tensor]

FORMATS: dict[str, Format] = {
    "channels first": lambda x, groups: video_to_images(x),
    "channels last": lambda x, groups: channels_last_images(x.permute(0, 2, 3, 4, 1)),
}


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="quickstart.yaml", help="(default: %(default)s)")
    parser.add_argument("--channels", type=int, help="base number of channels (default: the recipe's)")
    parser.add_argument("--size", type=int, default=64, help="height and width in pixels (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=8, help="images per step (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=11, help="rounds after the warm-up (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="(default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    narrow = f"{{model: {{tokenizer: {{init_args: {{channels: {options.channels}}}}}}}}}"
    tokenizer = build_tokenizer(options.recipe, *([narrow] if options.channels else [])).train()
    x = torch.rand(options.batch, 3, options.size, options.size) * 2 - 1
    seconds: dict[str, list[float]] = {name: [] for name in FORMATS}
    for _ in range(options.rounds + 1):
        for name, to_images in FORMATS.items():
            encoder.to_images = decoder.to_images = to_images
            start = time.process_time()
            tokenizer.zero_grad()
            F.l1_loss(tokenizer(x)[0], x).backward()
            seconds[name].append(time.process_time() - start)
    print(f"{options.recipe}, {options.batch} x {options.size} x {options.size}, {options.threads} threads\n")
    print("| format | CPU s | relative to channels first | quartiles |\n|---|---|---|---|")
    for name, values in seconds.items():
        ratios = [a / b for a, b in zip(values[1:], seconds["channels first"][1:], strict=True)]
        low, median, high = statistics.quantiles(ratios, n=4)
        print(f"| {name} | {statistics.median(values[1:]):.3f} | {median:.2f} | {low:.2f} to {high:.2f} |")


if __name__ == "__main__":
    main()
