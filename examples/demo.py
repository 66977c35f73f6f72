"""The whole way, with the commands that you would type: train, evaluate, export, reload, tokenize and back; then a page.

    python examples/demo.py --steps 1100 --out demo

Exits with 1 if the tokenizer does not beat the bicubic baseline by 2 dB on held-out photos (a full-length run must).
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

FULL_STEPS = 1100
MARGIN_DB = 2.0
"""What a full-length run must gain over the bicubic baseline."""
RECIPE = Path(__file__).parents[1] / "configs" / "quickstart.yaml"


def smalti(*arguments: object) -> None:
    """Run a command of smalti as a person would; stop if it fails."""
    words = [str(argument) for argument in arguments]
    print(f"\n$ smalti {shlex.join(words)}", flush=True)
    code = subprocess.run([sys.executable, "-m", "smalti", *words], check=False).returncode
    if code:
        sys.exit(code)


def packaged_photo(folder: Path) -> Path:
    """A photo that was held out of training, as a file of its own."""
    from smalti.data import Photos

    photos = Photos("validation")
    index = next(i for i in range(len(photos)) if photos.name(i) == "chelsea.png")
    file = folder / "photo.png"
    photos[index].save(file)
    return file


def newest_run(folder: Path) -> Path:
    """The folder of the run that was trained last."""
    return max(folder.glob("version_*"), key=lambda path: int(path.name.removeprefix("version_")))


def main() -> int:
    """Run the demo; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=FULL_STEPS, help="training steps (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder to write (%(default)s)")
    options = parser.parse_args()
    start, out = time.monotonic(), options.out
    out.mkdir(parents=True, exist_ok=True)

    smalti(
        "fit", "-c", RECIPE, "--trainer.logger.init_args.save_dir", out / "runs", "--trainer.max_steps", options.steps,
        "--trainer.val_check_interval", min(275, options.steps),
        "--model.scheduler.init_args.total_steps", options.steps,
    )  # fmt: skip
    run = newest_run(out / "runs")
    trained = time.monotonic() - start
    smalti("export", run / "checkpoints" / "last.ckpt", "--out", out / "tokenizer", "--overwrite")
    smalti(
        "evaluate", "--tokenizer", out / "tokenizer", "--data", "photos:validation", "--protocol", "square128",
        "--out", out / "evaluation", "--overwrite",
    )  # fmt: skip
    photo = packaged_photo(out)
    smalti("tokenize", photo, "-o", out / "photo.safetensors", "--tokenizer", out / "tokenizer", "--overwrite")
    smalti("detokenize", out / "photo.safetensors", "-o", out / "photo_back.png", "--overwrite")

    metrics = json.loads((out / "evaluation" / "metrics.json").read_text())
    gain = metrics["metrics"]["psnr"]["value"] - metrics["baseline"]["metrics"]["psnr"]["value"]
    files = [
        (out / "tokenizer", "the exported tokenizer: smalti.load reads it"),
        (out / "evaluation" / "metrics.json", "the metrics, and all that is needed to repeat them"),
        (out / "photo.safetensors", "a photo as tokens"),
        (out / "photo_back.png", "and as pixels again"),
        (run, "the training run: tensorboard --logdir shows it"),
    ]
    page = write_page(
        Page(
            run=run,
            metrics=metrics,
            sheet=out / "evaluation" / "contact_sheet.png",
            photo=photo,
            tokens=out / "photo.safetensors",
            back=out / "photo_back.png",
            seconds=trained,
            files=files,
        ),
        out / "index.html",
    )
    print(f"\nDone in {time.monotonic() - start:.0f} s, {trained:.0f} s of them training. What there is now:")
    for file, what in [(page, "the page: open it in a browser"), *files]:
        print(f"  {file!s:<32} {what}")
    verdict = f"PSNR of held-out photos is {gain:+.2f} dB against bicubic down and up by the same factor"
    if options.steps < FULL_STEPS:
        print(f"\n{verdict} after a shortened training of {options.steps} steps.")
        return 0
    print(f"\n{verdict}; {MARGIN_DB} or more are asked for.")
    return 0 if gain >= MARGIN_DB else 1


if __name__ == "__main__":
    sys.exit(main())
