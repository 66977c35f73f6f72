"""Run one of two processes that evaluate images with four channels together. Writes the results to FOLDER/RANK.json."""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from test_channel_evaluation import evaluate_bands, make_batches


def main():
    rank = int(os.environ["LOCAL_RANK"])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    results = evaluate_bands(make_batches()[rank : rank + 1])
    (Path(sys.argv[1]) / f"{rank}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


main()
