"""One process of two: evaluates its share of photos and clips, then meets faults that the other process has.

python run_share.py RANK STORE OUT
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from conftest import CLIPS, NAMES, make_batches, make_clip_batches, make_tokenizer, make_video_tokenizer

from smalti.errors import SmaltiError
from smalti.eval.evaluate import evaluate
from smalti.eval.feature_networks.efflite0_frechet import EffLite0MotionNetwork, EffLite0Network
from smalti.eval.feature_networks.efflite0_perceptual import EffLite0Perceptual


def share_of(tokenizer, batches, networks):
    result = evaluate(tokenizer, batches, seed=3, keep=2, **networks)
    return {
        "samples": result.samples,
        "metrics": {name: metric.value for name, metric in result.metrics.items()},
        "baseline": {name: metric.value for name, metric in result.baseline.items()},
        "groups": [[g.used, g.tokens, g.perplexity] for g in result.codebook.groups],
        "examples": [example.name for example in result.examples],
        "bits": [result.codebook.bits_per_pixel, result.baseline_bits_per_pixel],
        "processes": result.processes,
    }


def message_of(tokenizer, batches):
    try:
        evaluate(tokenizer, batches)
    except SmaltiError as error:
        return str(error)
    return None


def main():
    rank, store, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    networks = {"perceptual": EffLite0Perceptual(), "features": EffLite0Network()}
    motion = {"features": EffLite0MotionNetwork()}
    tokenizer, video_tokenizer = make_tokenizer(generative=True), make_video_tokenizer()
    broken = make_tokenizer()
    if rank == 1:
        torch.nn.init.constant_(broken.decoder.out.weight, float("nan"))
    answer = {
        "uneven": share_of(tokenizer, make_batches((NAMES[:4], NAMES[4:])[rank]), networks),
        "none": share_of(tokenizer, make_batches(((), NAMES)[rank]), networks),
        "clips": share_of(video_tokenizer, make_clip_batches((CLIPS[:1], CLIPS[1:])[rank], frames=2), motion),
        "no clips": share_of(video_tokenizer, make_clip_batches((CLIPS, ())[rank], frames=2), motion),
        "mixed": message_of(make_tokenizer(), (make_batches(NAMES[:1]), make_clip_batches(CLIPS[:1], frames=2))[rank]),
        "fault": message_of(broken, make_batches(("coffee", "retina")[rank : rank + 1])),
        "twice": message_of(make_tokenizer(), make_batches(("coffee",))),
        "nothing": message_of(make_tokenizer(), []),
    }
    Path(out).write_text(json.dumps(answer))
    dist.destroy_process_group()


main()
