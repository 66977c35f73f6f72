"""Train, export and evaluate a tokenizer, tokenize and detokenize a photo, and write an HTML page with the results.

    python examples/demo.py --steps 1300 --out demo

Runs the commands that you would type. A full-length run exits with code 1 if the PSNR of held-out photos is not at least
2 dB above that of the bicubic baseline at equal bits.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

from page import Page, write_page

FULL_STEPS = 1300
MARGIN_DB = 2.0
"""Minimum gain of a full-length run over the bicubic baseline, which has the same number of bits."""
RECIPE = Path(__file__).parents[1] / "configs" / "wetok" / "quickstart.yaml"


def run_smalti(*arguments: object) -> None:
    """Print and run a smalti command. Exit if it fails."""
    words = [str(argument) for argument in arguments]
    print(f"\n$ smalti {shlex.join(words)}", flush=True)
    code = subprocess.run([sys.executable, "-m", "smalti", *words], check=False).returncode
    if code:
        sys.exit(code)


def save_packaged_photo(folder: Path) -> Path:
    """Write a held-out photo to a file and return its path."""
    from smalti.data import Photos

    photos = Photos("validation")
    index = next(i for i in range(len(photos)) if photos.name(i) == "chelsea.png")
    file = folder / "photo.png"
    photos[index].save(file)
    return file


def train(folder: Path, steps: int) -> Path:
    """Train with the quickstart recipe and return the folder of the run."""
    run_smalti(
        "fit", "-c", RECIPE, "--trainer.logger.init_args.save_dir", folder, "--trainer.max_steps", steps,
        "--trainer.val_check_interval", min(325, steps), "--model.scheduler.warmup_steps", steps // 20,
    )  # fmt: skip
    return max(folder.glob("version_*"), key=lambda path: int(path.name.removeprefix("version_")))


def main() -> int:
    """Run the demo and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=FULL_STEPS, help="training steps (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="output folder (default: %(default)s)")
    options = parser.parse_args()
    start, out = time.monotonic(), options.out
    out.mkdir(parents=True, exist_ok=True)

    run = train(out / "runs", options.steps)
    training_seconds = time.monotonic() - start
    run_smalti("export", run / "checkpoints" / "last.ckpt", "--out", out / "tokenizer", "--overwrite")
    run_smalti(
        "evaluate", "--tokenizer", out / "tokenizer", "--data", "photos:validation", "--protocol", "square128",
        "--out", out / "evaluation", "--overwrite",
    )  # fmt: skip
    photo = save_packaged_photo(out)
    run_smalti("tokenize", photo, "-o", out / "photo.safetensors", "--tokenizer", out / "tokenizer", "--overwrite")
    run_smalti("detokenize", out / "photo.safetensors", "-o", out / "photo_reconstructed.png", "--overwrite")

    metrics = json.loads((out / "evaluation" / "metrics.json").read_text())
    gain = metrics["metrics"]["psnr"]["value"] - metrics["baseline"]["metrics"]["psnr"]["value"]
    files = [
        (out / "tokenizer", "the exported tokenizer, for smalti.load"),
        (out / "evaluation" / "metrics.json", "the metrics, and everything needed to reproduce them"),
        (out / "photo.safetensors", "the tokens of a photo"),
        (out / "photo_reconstructed.png", "the photo reconstructed from its tokens"),
        (run, "the training run, for tensorboard --logdir"),
    ]
    page = write_page(
        Page(
            run=run,
            metrics=metrics,
            contact_sheet=out / "evaluation" / "contact_sheet.png",
            photo=photo,
            token_file=out / "photo.safetensors",
            reconstruction=out / "photo_reconstructed.png",
            training_seconds=training_seconds,
            files=files,
        ),
        out / "index.html",
    )
    print(f"\nDone in {time.monotonic() - start:.0f} s, of which {training_seconds:.0f} s are training. Files:")
    files = [(page, "the results page: open it in a browser"), *files]
    width = max(len(str(file)) for file, _ in files)
    for file, description in files:
        print(f"  {file!s:<{width}}  {description}")
    print(f"\nPSNR on held-out photos: {gain:+.2f} dB relative to bicubic downsampling and upsampling at equal bits.")
    if options.steps < FULL_STEPS:
        print(f"This was a shortened training of {options.steps} steps; a full one has {FULL_STEPS}.")
        return 0
    print(f"The required minimum is {MARGIN_DB:+.2f} dB.")
    return 0 if gain >= MARGIN_DB else 1


if __name__ == "__main__":
    sys.exit(main())
