"""Run one of two processes that evaluate a dataset together: results for photos and clips, and errors of either process.

    LOCAL_RANK=RANK MASTER_ADDR=... MASTER_PORT=... python distributed_worker.py FOLDER

Writes the results to FOLDER/RANK.json.
"""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from conftest import (
    CLIPS,
    PHOTOS,
    make_clip_batches,
    make_photo_batches,
    make_tokenizer,
    make_video_tokenizer,
    rival_numbers,
)

sys.path.append(str(Path(__file__).parents[1]))
from fake_gpu import FakeGPU

from smalti.errors import SmaltiError
from smalti.eval.evaluate import evaluate
from smalti.eval.feature_networks.efflite0_frechet import EffLite0MotionNetwork, EffLite0Network
from smalti.eval.feature_networks.efflite0_perceptual import EffLite0Perceptual
from smalti.eval.metrics import PSNR, SSIM, FrechetDistance, PerceptualDistance, PSNRClip
from smalti.eval.rivals import build_rivals

RIVALS = ("bicubic", "jpeg")


def evaluate_part(tokenizer, batches, metrics, rivals=()):
    options = {"rivals": build_rivals(rivals), "rival_samples": 3}
    result = evaluate(tokenizer.double(), batches, metrics, seed=3, num_examples=2, **options)
    return {
        "samples": result.samples,
        "metrics": {name: metric.value for name, metric in result.metrics.items()},
        "baseline": {name: metric.value for name, metric in result.baseline.items()},
        "groups": [[g.used, g.tokens, g.perplexity] for g in result.codebook.groups],
        "examples": [example.name for example in result.examples],
        "bits": [result.codebook.bits_per_pixel, result.baseline_bits_per_pixel],
        "rivals": rival_numbers(result),
        "processes": result.processes,
    }


def catch_error(tokenizer, batches, metrics=None):
    try:
        evaluate(tokenizer, batches, metrics or [PSNR()])
    except SmaltiError as error:
        return str(error)
    return None


def main():
    rank = int(os.environ["LOCAL_RANK"])
    out = Path(sys.argv[1]) / f"{rank}.json"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    image_metrics = [PSNR(), SSIM(), PerceptualDistance(EffLite0Perceptual()), FrechetDistance(EffLite0Network())]
    clip_metrics = [PSNR(), PSNRClip(), SSIM(), FrechetDistance(EffLite0MotionNetwork())]
    tokenizer, video_tokenizer = make_tokenizer(generative=True), make_video_tokenizer()
    broken = make_tokenizer()
    if rank == 1:
        torch.nn.init.constant_(broken.decoder.out.weight, float("nan"))
    mixed = (make_photo_batches(PHOTOS[:1]), make_clip_batches(CLIPS[:1], frames=2))[rank]
    with FakeGPU() as gpu:
        results = {
            "uneven": evaluate_part(
                tokenizer, make_photo_batches((PHOTOS[:4], PHOTOS[4:])[rank]), image_metrics, RIVALS
            ),
            "none": evaluate_part(tokenizer, make_photo_batches(((), PHOTOS)[rank]), image_metrics, RIVALS),
            "clips": evaluate_part(
                video_tokenizer, make_clip_batches((CLIPS[:1], CLIPS[1:])[rank], frames=2), clip_metrics
            ),
            "no clips": evaluate_part(video_tokenizer, make_clip_batches((CLIPS, ())[rank], frames=2), clip_metrics),
            "mixed": catch_error(make_tokenizer(), mixed),
            "nan": catch_error(broken, make_photo_batches(("coffee", "retina")[rank : rank + 1])),
            "duplicate": catch_error(make_tokenizer(), make_photo_batches(("coffee",))),
            "empty": catch_error(make_tokenizer(), []),
        }
    del gpu.counts["host waits"]
    Path(out).write_text(json.dumps(results | {"collectives": gpu.counts}))
    dist.destroy_process_group()


main()
