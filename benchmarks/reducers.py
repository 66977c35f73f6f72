"""Time and peak memory of reducers against the straightforward form of the published algorithms.

    python benchmarks/reducers.py

The published code of PruMerge loops over samples and centers, that of VQToken over videos, iterations and clusters, and
that of MustDrop compares all pairs of tokens of a window and assembles each sample on its own. The baselines here are
written anew with the same loops. "VQToken (matrix)" is a stronger baseline, which computes all cosines of a sample by one
matrix product. Both sides get the same tokens, and their results are compared first. A round measures both in turn; a
ratio is that of two times of the same round. Peak memory is measured in processes of their own, in addition to the inputs.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from measurement import peak_memory, run_in_subprocess, time_call
from smalti.reducers import LocalMerge, PruMerge, VQToken
from smalti.reducers.kmeans import initial_centroids

GRID = (24, 24)
CLUSTERS, ITERATIONS = 32, 50
Call = Callable[[], Tensor]


def make_tokens(batch: int, channels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return tokens that vary smoothly, with noise of the same variance, their keys and their saliency."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(batch, channels, 6, 6, generator=generator)
    maps = F.interpolate(coarse, GRID, mode="bilinear")
    maps = maps + maps.std() * torch.randn(batch, channels, *GRID, generator=generator)
    tokens = maps.flatten(2).transpose(1, 2).contiguous()
    keys = torch.randn(batch, tokens.shape[1], channels, generator=generator)
    return tokens, keys, torch.rand(batch, tokens.shape[1], generator=generator).softmax(1)


def loop_prumerge(tokens: Tensor, keys: Tensor, saliency: Tensor, count: int) -> Tensor:
    """Merge the neighbors of each center, center by center."""
    unit = F.normalize(keys, dim=-1)
    centers = saliency.topk(count, dim=1).indices
    out = torch.zeros(tokens.shape[0], count + 1, tokens.shape[2])
    for b in range(tokens.shape[0]):
        rest = torch.tensor(sorted(set(range(tokens.shape[1])) - set(centers[b].tolist())))
        for i, center in enumerate(centers[b]):
            others = torch.cat((centers[b, :i], centers[b, i + 1 :], rest))
            nearest = others[(unit[b, others] @ unit[b, center]).topk(32).indices]
            out[b, i] = tokens[b, center] + (saliency[b, nearest, None] * tokens[b, nearest]).sum(0)
        out[b, -1] = (saliency[b, rest, None] * tokens[b, rest]).sum(0)
    return out


def loop_kmeans(tokens: Tensor, start: Tensor, *, matrix: bool) -> tuple[Tensor, Tensor]:
    """Cluster each sample with loops over clusters. Returns the means and the last centroids, as the package does.

    Args:
        tokens: (B, N, C).
        start: (B, K, C).
        matrix: whether all cosines are one matrix product, which leaves the loops over clusters for the means only.
    """
    out, final = torch.zeros_like(start), torch.zeros_like(start)
    for b in range(tokens.shape[0]):
        unit = F.normalize(tokens[b], dim=-1)
        centroids = start[b].clone()
        for _ in range(ITERATIONS):
            if matrix:
                cosines = unit @ F.normalize(centroids, dim=-1).T
            else:
                cosines = torch.stack([unit @ F.normalize(centroid, dim=0) for centroid in centroids], 1)
            labels = (1 - cosines).argmin(1)
            new = centroids.clone()
            for k in range(CLUSTERS):
                if (labels == k).any():
                    new[k] = unit[labels == k].mean(0)
            change = (new - centroids).norm()
            centroids = new
            if change < 1e-4:
                break
        final[b] = centroids
        for k in range(CLUSTERS):
            if (labels == k).any():
                out[b, k] = unit[labels == k].mean(0)
    return out, final


def loop_merge(tokens: Tensor, window: int, threshold: float) -> Tensor:
    """Merge windows with all pairs of cosines, and assemble sample by sample."""
    height, width = GRID
    batch, _, channels = tokens.shape
    maps = tokens.reshape(batch, height // window, window, width // window, window, channels)
    windows = maps.transpose(2, 3).reshape(batch, -1, window**2, channels)
    cosine = F.cosine_similarity(windows[:, :, :, None], windows[:, :, None], dim=-1)
    size = window**2
    similarity = (cosine.sum((2, 3)) - size) / (size * (size - 1))
    count = int((similarity >= threshold).sum(1).min())
    out = []
    for b in range(batch):
        chosen = similarity[b].topk(count).indices
        merged = torch.zeros(height, width, dtype=torch.bool)
        for index in chosen.tolist():
            row, column = divmod(index, width // window)
            merged[row * window : (row + 1) * window, column * window : (column + 1) * window] = True
        out.append(torch.cat((windows[b, chosen].mean(1), tokens[b][~merged.flatten()])))
    return torch.stack(out)


def make_calls(name: str, batch: int, channels: int) -> dict[str, Call]:
    """Return both forms of a reducer, as functions of nothing."""
    tokens, keys, saliency = make_tokens(batch, channels)
    if name == "PruMerge":
        ours = PruMerge(0.125)
        count = tokens.shape[1] // 8
        return {
            "ours": lambda: ours.reduce(tokens, GRID, saliency=saliency, keys=keys).tokens,
            "loop": lambda: loop_prumerge(tokens, keys, saliency, count),
        }
    if name.startswith("VQToken"):
        start = initial_centroids(F.normalize(tokens, dim=-1), CLUSTERS)
        cluster = VQToken(CLUSTERS, ITERATIONS)
        return {
            "ours": lambda: cluster.cluster(tokens, CLUSTERS, start).means,
            "loop": lambda: loop_kmeans(tokens, start, matrix=name.endswith("(matrix)"))[0],
        }
    merge = LocalMerge(3, 0.5, upstream=True)  # the same number of windows in each sample, as in the loop
    return {"ours": lambda: merge.reduce(tokens, GRID).tokens, "loop": lambda: loop_merge(tokens, 3, 0.5)}


def main() -> None:
    """Print one line per reducer."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--channels", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        name, side, batch, channels = json.loads(options.measure)
        call = make_calls(name, batch, channels)[side]
        call()
        print(json.dumps(peak_memory(call, "cpu")))
        return
    print(f"{options.batch} samples of {GRID[0]} x {GRID[1]} tokens, {options.channels} channels")
    for name in ("PruMerge", "VQToken", "VQToken (matrix)", "MustDrop"):
        calls = make_calls(name, options.batch, options.channels)
        torch.testing.assert_close(calls["ours"](), calls["loop"](), rtol=1e-4, atol=1e-4)
        times: dict[str, list[float]] = {side: [] for side in calls}
        for index in range(options.rounds):
            for side in sorted(calls, reverse=bool(index % 2)):
                times[side].append(time_call(calls[side], "cpu"))
        ratio = statistics.median(a / b for a, b in zip(times["loop"], times["ours"], strict=True))
        memory = {side: run_in_subprocess(__file__, [name, side, options.batch, options.channels]) for side in calls}
        print(
            f"{name:<17} ours {statistics.median(times['ours']):7.3f} s, loop {statistics.median(times['loop']):7.3f} s: "
            f"{ratio:5.1f} times faster; peak memory {memory['ours']:.0f} MiB, loop {memory['loop']:.0f} MiB",
            flush=True,
        )


if __name__ == "__main__":
    main()
