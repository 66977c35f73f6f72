"""Tokenizing datasets: from images and videos to training files of other models, and back.

    source (files, shards) -> units: one input shard, one output shard
      | DataLoader workers: decode, preprocess, group                     (unit_loader)
      v
    batches of 8-bit pixels -> tokenizer on the device -> ids or latents  (batch_encoder)
      | in the order of the source                                        (collector)
      v
    shard, written to a temporary folder, renamed, marked as done         (shard_output, formats/)

`TokenDataset` reads the result. What a shard contains depends on the job alone, never on the number of processes or
workers, so an interrupted job continues with the same bytes.
"""

from __future__ import annotations

from smalti.tokenization.token_dataset import TokenDataset, TokenSample

__all__ = ["TokenDataset", "TokenSample"]
