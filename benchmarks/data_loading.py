"""Photos per second that one worker loads: smalti's training data against torchvision's ImageFolder.

    python benchmarks/data_loading.py

All pipelines load the same JPEG files with one DataLoader worker each: random resized crops (a quarter to all of the area,
aspect ratios 3/4 to 4/3, antialiased) of 256 x 256 pixels, flips, and float pixels in [-1, 1] in batches of 16.

- smalti: `training_loader` with `TrainingTransform`, bicubic.
- torchvision PIL: `ImageFolder` with its default loader and transforms of PIL images, bicubic.
- torchvision tensors: `ImageFolder` with `torchvision.io.decode_jpeg` and transforms of uint8 tensors, its fastest path,
  with the bicubic filter and with the bilinear one, torchvision's default.

The loaders exist at the same time, and each round measures one epoch of each in a different order. A ratio is that of two
rates of the same round. The files are made from the packaged photos: `web` has 500 pixels on the longer side, as most
photos of ImageNet have, and `camera` 2000.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms import v2

from smalti.data import Folder, Photos, TrainingTransform, training_loader

SIZE = 256
BATCH_SIZE = 16
SETS = {"web": 500, "camera": 2000}  # pixels on the longer side
BATCHES = {"web": 20, "camera": 10}  # per epoch


def write_photos(folder: Path, longer_side: int, copies: int) -> None:
    """Write copies of the packaged photos as JPEG files of this size, with quality 90 and subsampled chroma."""
    folder.mkdir(parents=True)
    source = Photos("train")
    for index in range(len(source)):
        photo = source[index]
        scale = longer_side / max(photo.size)
        width, height = (round(side * scale) for side in photo.size)
        photo = photo.resize((width, height), Image.Resampling.BICUBIC)
        for copy in range(copies):
            photo.save(folder / f"{index:02}-{copy:03}.jpg", quality=90)


def smalti_loader(folder: Path) -> Callable[[], Iterator[Tensor]]:
    """Return a function that starts an epoch of smalti's loader."""
    loader = training_loader(Folder(folder), TrainingTransform(SIZE), batch_size=BATCH_SIZE, workers=1)
    return lambda: (batch.pixels for batch in loader)


def torchvision_loader(
    folder: Path, *, tensors: bool, interpolation: str = "bicubic"
) -> Callable[[], Iterator[Tensor]]:
    """Return a function that starts an epoch of a DataLoader of torchvision's ImageFolder.

    Args:
        folder: folder with one subfolder.
        tensors: whether to decode to uint8 tensors; otherwise, the default loader of ImageFolder decodes to PIL images.
        interpolation: interpolation mode of the resize.
    """
    transform = v2.Compose([
        v2.RandomResizedCrop(SIZE, scale=(0.25, 1.0), interpolation=v2.InterpolationMode(interpolation), antialias=True),
        v2.RandomHorizontalFlip(),
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([0.5] * 3, [0.5] * 3),
    ])  # fmt: skip
    dataset = ImageFolder(folder, transform, **({"loader": read_tensor} if tensors else {}))
    loader = DataLoader(
        dataset, batch_size=BATCH_SIZE, shuffle=True, num_workers=1, persistent_workers=True, drop_last=True
    )
    return lambda: (pixels for pixels, _ in loader)


def read_tensor(path: str) -> Tensor:
    """Decode a JPEG file to (3, H, W) uint8."""
    return decode_jpeg(read_file(path), mode=ImageReadMode.RGB)


def photos_per_second(epoch: Callable[[], Iterator[Tensor]]) -> float:
    """Return the rate over an epoch without its first batches, which wait for the worker."""
    count, start = 0, 0.0
    for index, pixels in enumerate(epoch()):
        if index == 2:
            start = time.perf_counter()
        elif index > 2:
            count += len(pixels)
    return count / (time.perf_counter() - start)


def measure(folder: Path, rounds: int) -> dict[str, list[float]]:
    """Return the photos per second of each pipeline in each round."""
    pipelines = {
        "smalti": smalti_loader(folder),
        "torchvision PIL": torchvision_loader(folder, tensors=False),
        "torchvision tensors, bicubic": torchvision_loader(folder, tensors=True),
        "torchvision tensors, bilinear": torchvision_loader(folder, tensors=True, interpolation="bilinear"),
    }
    names = list(pipelines)
    rates: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-1, rounds):  # round -1 starts the workers and is not counted
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            rate = photos_per_second(pipelines[name])
            if number >= 0:
                rates[name].append(rate)
    return rates


def main() -> None:
    """Print one table row per set of photos and pipeline."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12, help="rounds per set of photos")
    parser.add_argument("--photos", nargs="+", choices=SETS, default=list(SETS), help="sets of photos")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| photos | pipeline | photos/s | smalti / pipeline | quartiles |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        for name in options.photos:
            folder = Path(temporary, name)
            write_photos(folder / "photos", SETS[name], -(-BATCHES[name] * BATCH_SIZE // 12))
            rates = measure(folder, options.rounds)
            for pipeline, values in rates.items():
                ratios = [ours / rate for ours, rate in zip(rates["smalti"], values, strict=True)]
                low, middle, high = statistics.quantiles(ratios)
                print(
                    f"| {name} | {pipeline} | {statistics.median(values):.0f} | {middle:.2f} | {low:.2f} to {high:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
