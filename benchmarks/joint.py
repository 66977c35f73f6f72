"""What joint training costs and gives: the quickstart's OneVAE trained in five ways, each for the same number of steps.

    python benchmarks/joint.py --steps 300 --out runs/joint        # five runs, about five minutes each on 2 cores

continuous: KL alone, from fresh weights; discrete: FSQ alone, from fresh weights; joint: both, one path a step; and
discrete and joint again from the weights of the first run. All see the same clips in the same order. Prints a table of
markdown: PSNR in dB of each path on the held-out clips, as `smalti fit` validates (mean over frames, 8 bits).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import yaml

from runs import checkpoint, fit, metrics
from smalti.cli.recipe_files import find_recipe

RECIPE = "onevae/quickstart.yaml"


def recipe(path: str | None, steps: int) -> dict:
    """The quickstart with one of its paths, or both (None), for so many steps."""
    settings = yaml.safe_load(find_recipe(RECIPE).read_text())
    settings["trainer"] |= {"max_steps": steps, "val_check_interval": steps}
    model = settings["model"]
    model["scheduler"]["init_args"]["total_steps"] = steps
    tokenizer = model["tokenizer"]["init_args"]
    if path is not None:
        tokenizer["bottleneck"] = tokenizer["bottleneck"]["init_args"][path]
    if path == "discrete":
        del model["weights"]["kl"]
    return settings


def train(name: str, path: str | None, start: str | None, steps: int, out: Path) -> dict[str, float]:
    """Train in a process of its own; the validation's metrics of the last step."""
    folder = out / name
    options = ()
    if start is not None:
        options = ("--warm_start.path", str(checkpoint(out / start)), "--warm_start.adopt", "true")
    fit(recipe(path, steps), folder, options)
    rows = metrics(folder)
    return {key: float(row[key]) for row in rows for key in row if key.startswith("val/psnr") and row[key]}


def main() -> None:
    """Train all, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path("runs/joint"))
    options = parser.parse_args()
    runs = [
        ("continuous", "continuous", None),
        ("discrete", "discrete", None),
        ("joint", None, None),
        ("discrete from continuous", "discrete", "continuous"),
        ("joint from continuous", None, "continuous"),
    ]
    print("| trained | steps | continuous path, dB | discrete path, dB |\n|---|---|---|---|")
    for name, path, start in runs:
        found = train(name.replace(" ", "_"), path, start, options.steps, options.out)
        continuous = found.get("val/psnr_continuous", found["val/psnr"] if path == "continuous" else None)
        discrete = found.get("val/psnr_discrete", found["val/psnr"] if path == "discrete" else None)
        shown = ["" if value is None else f"{value:.2f}" for value in (continuous, discrete)]
        total = options.steps * (2 if start else 1)
        print(f"| {name} | {total} | {shown[0]} | {shown[1]} |", flush=True)


if __name__ == "__main__":
    main()
