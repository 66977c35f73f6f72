"""CPU time of `smalti reconstruct` for a video against a plain loop in Python: PyAV, the tokenizer, PyAV.

    python benchmarks/reconstruct_video.py                                # 250 frames of 640 x 272
    python benchmarks/reconstruct_video.py --frames 50 --rounds 1

The tokenizer is that of quickstart.yaml with random weights, and the video is a window that moves over a packaged photo.
The plain loop encodes and decodes four frames at a time, as a user would write it, with the defaults of PyTorch and the C
library. It writes H.264 of the same quality. Both run in processes of their own, alternating, and include the start of
Python. The time is user plus system time of all threads, which other processes on the machine change less than wall time.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

SIZE = (272, 640)
"""Height and width of the frames."""


def write_inputs(folder: Path, frames: int) -> None:
    """Write `video.mp4` and the folder `tokenizer`."""
    import torch
    from torch.nn import functional as F

    from smalti.cli.build_tokenizer import build_tokenizer
    from smalti.data import Photos
    from smalti.pixels import image_to_pixels, pixels_to_uint8
    from smalti.tokenizers.checkpoints import save
    from smalti.video import write_video

    torch.manual_seed(0)
    save(build_tokenizer("quickstart.yaml").eval(), folder / "tokenizer")
    photo = image_to_pixels(Photos("validation")[0])[None]
    height, width = SIZE
    canvas = pixels_to_uint8(F.interpolate(photo, (2 * height, 2 * width), mode="bicubic")[0])
    positions = [(math.sin(i / 31) * 0.5 + 0.5, math.sin(i / 20) * 0.5 + 0.5) for i in range(frames)]
    windows = (canvas[:, round(y * height) :, round(x * width) :][:, :height, :width] for y, x in positions)
    write_video(folder / "video.mp4", windows, 25)


def run_plain_loop(folder: Path) -> None:
    """Reconstruct `video.mp4` without Smalti's commands."""
    import av
    import torch

    import smalti

    tokenizer = smalti.load(folder / "tokenizer")

    def reconstruct(images: list[torch.Tensor]) -> torch.Tensor:
        x = torch.stack(images).permute(0, 3, 1, 2).float() / 127.5 - 1
        pixels = tokenizer.decode(tokenizer.encode(x))
        return ((pixels + 1) * 127.5).clamp(0, 255).round().byte().permute(0, 2, 3, 1).contiguous()

    with torch.inference_mode(), av.open(folder / "video.mp4") as source, av.open(folder / "plain.mp4", "w") as target:
        stream = target.add_stream("libx264", rate=Fraction(25), options={"crf": "12"})
        stream.height, stream.width = SIZE
        stream.pix_fmt = "yuv420p"
        images: list[torch.Tensor] = []

        def write() -> None:
            for image in reconstruct(images) if images else ():
                target.mux(stream.encode(av.VideoFrame.from_ndarray(image.numpy(), "rgb24")))
            images.clear()

        for frame in source.decode(video=0):
            images.append(torch.from_numpy(frame.to_ndarray(format="rgb24")))
            if len(images) == 4:
                write()
        write()
        target.mux(stream.encode())


def cpu_seconds(command: list[str]) -> tuple[float, float]:
    """Run a command, and return its user and system time in seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=250, help="frames of the video (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each (default: %(default)s)")
    parser.add_argument("--plain", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plain:
        run_plain_loop(options.plain)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder, options.frames)
        files = [str(folder / "video.mp4"), "--tokenizer", str(folder / "tokenizer"), "--out", str(folder / "out.mp4")]
        reconstruct = ["-m", "smalti", "reconstruct", *files, "--overwrite"]
        commands = {
            "smalti reconstruct": reconstruct,
            "smalti reconstruct --precision bfloat16": [*reconstruct, "--precision", "bfloat16"],
            "plain loop": [__file__, "--plain", name],
        }
        seconds: dict[str, list[tuple[float, float]]] = {key: [] for key in commands}
        for _ in range(options.rounds):
            for key, command in commands.items():
                seconds[key].append(cpu_seconds(command))
    print(f"{options.frames} frames of {SIZE[1]} x {SIZE[0]}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    print("| | CPU s | of it in the kernel | relative to the plain loop |\n|---|---|---|---|")
    totals = {key: [sum(pair) for pair in values] for key, values in seconds.items()}
    for key, values in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(totals[key], totals["plain loop"], strict=True))
        kernel = statistics.median(system for _, system in values)
        print(f"| {key} | {statistics.median(totals[key]):.1f} | {kernel:.1f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
