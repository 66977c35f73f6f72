r"""A training step of a recipe: its parts, the convolutions alone, and WeTok's published step with the same networks.

    python benchmarks/train_step.py                                     # wetok/f16.yaml, narrow, on a CPU
    python benchmarks/train_step.py --recipe onevae/8x8x8.yaml --size 64 --frames 9 --batch 1
    python benchmarks/train_step.py --device cuda --channels 256 --size 256 --batch 4 \
        --bf16 --channels-last --compile --fused --plain --nccl         # the options together, against none of them

All variants run in one process and alternate, so that the ratios hold under changing load. Prints two Markdown tables:

- The step, WeTok's published step, the convolutions alone, and with `--plain` the step without options: seconds, samples
  per second, and peak memory in addition to what is in use before.
- The share of each part of the step. For this, the step runs part by part: each loss is differentiated with respect to the
  reconstruction, then the tokenizer. This is the same work as in one backward pass.

The convolutions alone are all convolutions of an uncompiled step, forward and backward, with the same shapes, data types
and memory formats, on random numbers. The published step (arXiv 2508.05599) is written here from its description: two
optimizers that alternate, entropies from the table of all tokens and codewords, the perceptual distance once more in the
discriminator's step, logged scalars read one by one, and a loop over parameters for the averaged weights. Its networks,
perceptual network, widths and batch are those of the recipe, so that the ratio compares the steps and not the networks.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from jsonargparse import ArgumentParser
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from measurement import peak_memory, time_call
from smalti.cli.recipes import load_recipes
from smalti.data import Clips, ImageData, Photos, VideoData
from smalti.tokenizers.bottlenecks.sign_quantizer import SignQuantizer
from smalti.trainers import TokenizerTraining
from smalti.trainers.gradients import gradient_norm
from smalti.trainers.unused_parameters import UnusedParameters
from smalti.types import Batch

NETWORKS = {"lpips_vgg", "lpips_alex", "st_lpips", "st_lpips_vgg", "efflite0"}


def build_module(options: argparse.Namespace, *, compiled: bool) -> TokenizerTraining:
    """Build the training module of the recipe, with the GAN loss from the first step."""
    overrides: list[str] = []
    if options.channels is not None:
        overrides.append(f"{{model: {{tokenizer: {{init_args: {{channels: {options.channels}}}}}}}}}")
    model = load_recipes(options.recipe, *overrides)["model"]
    model.pop("scheduler", None)  # its length would have to fit
    losses = model.setdefault("losses", {}) or {}
    if "perceptual" in losses:
        losses["perceptual"]["init_args"]["network"] = options.perceptual
    if model.get("gan"):
        (model["gan"].get("init_args") or model["gan"])["start"] = 0
    if options.fused:
        model["optimizer"].setdefault("init_args", {})["fused"] = True
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(TokenizerTraining, "model")
    torch.manual_seed(0)
    module = parser.instantiate(parser.parse_object({"model": {**model, "compile": compiled}})).model
    return module.to(options.device)


class Step:
    """The training step of Smalti, as Lightning runs it, without Lightning.

    Args:
        module: the training module.
        batch: the batch of every step.
        precision: context of the forward pass.
        clip: maximum gradient norm of each network, or None.
        ddp: whether to wrap the module in DDP. A process group must exist.
    """

    def __init__(
        self,
        module: TokenizerTraining,
        batch: Batch,
        precision: AbstractContextManager[Any],
        clip: float | None,
        ddp: bool,
    ) -> None:
        self.module, self.batch, self.precision, self.clip = module, batch, precision, clip
        self.optimizer = module.optimizer(module.parameter_groups())
        self.average = AveragedModel(module.tokenizer, multi_avg_fn=get_ema_multi_avg_fn(0.999))
        self.run: nn.Module = _TrainingStep(module)
        if ddp:
            module._unused_parameters = UnusedParameters(module.parameters())
            self.run = DistributedDataParallel(self.run, broadcast_buffers=False)

    def __call__(self) -> None:
        """Run one step."""
        with self.precision:
            total = self.run(self.batch)
        self.optimizer.zero_grad()
        total.backward()
        self.update()

    def update(self) -> None:
        """Read the summary, clip, and update weights and averages."""
        module = self.module
        assert module._summary is not None
        unused = module._unused_parameters
        module._summary.start([False, False, *(unused.reached() if unused is not None else [])])
        norms = [gradient_norm(group["params"], module.device) for group in self.optimizer.param_groups]
        result = module._summary.finish(norms)
        module._summary = None
        if unused is not None:
            unused.remove_gradients(result.flags[2:])
        if self.clip:
            for group, norm in zip(self.optimizer.param_groups, norms, strict=True):
                nn.utils.clip_grads_with_norm_(group["params"], self.clip, norm)
        if module.gan is not None:
            module.gan.on_optimizer_step()
        self.optimizer.step()
        self.average.update_parameters(module.tokenizer)

    def parts(self, batches: Iterator[Batch] | None) -> dict[str, float]:
        """Run one step part by part, and return the seconds of each part."""
        module, device = self.module, str(self.module.device.type)
        seconds: dict[str, float] = {}

        def timed(name: str, call: Callable[[], Any]) -> Any:
            results: list[Any] = []
            seconds[name] = seconds.get(name, 0.0) + time_call(lambda: results.append(call()), device)
            return results[0]

        if batches is not None:
            timed("data", lambda: next(batches).pixels.to(device))
        original = self.batch.pixels
        self.optimizer.zero_grad()
        with self.precision:
            reconstruction, latents = timed("generator", lambda: module.tokenizer(original))
            leaf = reconstruction.detach().requires_grad_()
            losses = dict(latents.code.losses)
            if module.losses:
                losses |= timed("perceptual", lambda: {k: f(leaf, original) for k, f in module.losses.items()})
            if module.gan is not None:
                gan = module.gan
                losses |= timed("discriminator", lambda: {"adversarial": gan.generator_loss(leaf, original)})
                losses |= timed("discriminator", lambda: gan(leaf, original))
        for name in module.losses:
            timed("perceptual", losses[name].backward)
        if module.gan is not None:
            timed("discriminator", (losses["adversarial"] + losses["discriminator"] + losses["lecam"]).backward)

        def finish() -> None:
            pixels = F.l1_loss(reconstruction, original) + F.mse_loss(reconstruction, original)
            (pixels + (reconstruction * cast(Tensor, leaf.grad)).sum() + sum(latents.code.losses.values())).backward()

        if leaf.grad is None:
            leaf.grad = torch.zeros_like(leaf)
        timed("generator", finish)
        if distributed.is_initialized():
            gradients = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
            timed("collectives", lambda: distributed.all_reduce(gradients))
        from smalti.trainers.step_summary import StepSummary

        module._summary = StepSummary(module._metric_names)
        module._summary.add(losses, len(original))
        timed("optimizer", self.update)
        return seconds


class _TrainingStep(nn.Module):
    """Calls `training_step` in `forward`, which DDP requires."""

    def __init__(self, module: TokenizerTraining) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: Batch) -> Tensor:
        return self.module.training_step(batch, 0)


class PublishedStep:
    """WeTok's step with two alternating optimizers, see the docstring of this file."""

    def __init__(self, module: TokenizerTraining, batch: Batch, precision: AbstractContextManager[Any]) -> None:
        assert module.gan is not None
        self.tokenizer, self.gan, self.losses = module.tokenizer, module.gan, module.losses
        self.batch, self.precision = batch, precision
        self.generator = torch.optim.Adam(self.tokenizer.parameters(), lr=1e-4, betas=(0.5, 0.9))
        self.discriminator = torch.optim.Adam(self.gan.parameters(), lr=1e-4, betas=(0.5, 0.9))
        self.average = {name: p.detach().clone() for name, p in self.tokenizer.named_parameters()}
        self.bottleneck = self.tokenizer.bottleneck
        self.logged: dict[str, float] = {}

    def __call__(self) -> None:
        """Run one step."""
        original = self.batch.pixels
        with self.precision:
            self.bottleneck.eval()  # its losses are computed below, from the full table
            x = original if original.ndim == 5 else original.unsqueeze(2)
            (h,) = self.tokenizer.encoder(x)
            code = self.bottleneck(h.flatten(2).transpose(1, 2))
            z = code.z.transpose(1, 2).unflatten(2, h.shape[2:]).to(h.dtype)
            reconstruction = self.tokenizer.decoder((z,)).reshape(original.shape)
            losses = {"l1": F.l1_loss(reconstruction, original)}
            losses |= {name: loss(reconstruction, original) for name, loss in self.losses.items()}
            losses["adversarial"] = 0.1 * self.gan.generator_loss(reconstruction, original)
            if isinstance(self.bottleneck, SignQuantizer):
                losses |= self._quantizer_losses(self.bottleneck, h.float().flatten(2).transpose(1, 2))
        self.generator.zero_grad()
        torch.stack([loss.float() for loss in losses.values()]).sum().backward()
        self.generator.step()
        with self.precision:
            again = {name: loss(reconstruction.detach(), original) for name, loss in self.losses.items()}
            discriminator = self.gan(reconstruction, original)
        self.discriminator.zero_grad()
        (discriminator["discriminator"] + 0.05 * discriminator["lecam"]).backward()
        self.discriminator.step()
        self.gan.on_optimizer_step()
        self.logged = {name: loss.item() for name, loss in {**losses, **again, **discriminator}.items()}
        with torch.no_grad():
            for name, parameter in self.tokenizer.named_parameters():
                self.average[name].sub_(0.001 * (self.average[name] - parameter))

    @staticmethod
    def _quantizer_losses(quantizer: SignQuantizer, h: Tensor) -> dict[str, Tensor]:
        """Return the weighted losses of the quantizer, from the probabilities of all codewords of each group."""
        x = h.unflatten(-1, (quantizer.groups, quantizer.bits))
        bits = torch.arange(2**quantizer.bits, device=h.device).unsqueeze(1) >> torch.arange(
            quantizer.bits, device=h.device
        )
        codewords = (bits & 1).float() * 2 - 1
        probabilities = torch.softmax(2 * x @ codewords.T / quantizer.temperature, dim=-1)
        token = -(probabilities * torch.log(probabilities + 1e-5)).sum(-1).mean()
        mean = probabilities.flatten(0, -2).mean(0)
        codebook = -(mean * torch.log(mean + 1e-5)).sum()
        return {"entropy": 0.1 * (token - codebook), "commitment": 0.25 * F.mse_loss(x, x.detach().sign())}


class Convolutions(TorchDispatchMode):
    """Records all convolutions, forward and backward, and computes them again on random numbers."""

    OPERATIONS = (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default)

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[Any] = Counter()
        self._replay: list[tuple[Callable[[], Any], int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.OPERATIONS:
            arguments = tree_map_only(Tensor, lambda t: _Like(t), args)
            self.calls[func, _freeze(arguments)] += 1
        return func(*args, **(kwargs or {}))

    def prepare(self) -> None:
        """Allocate the inputs."""
        for (func, arguments), count in self.calls.items():
            inputs = [argument.make() if isinstance(argument, _Like) else argument for argument in arguments]
            self._replay.append((lambda func=func, inputs=inputs: func(*inputs), count))

    def __call__(self) -> None:
        """Compute all convolutions of the step."""
        for call, count in self._replay:
            for _ in range(count):
                call()


class _Like:
    """Shape, strides, data type and device of a tensor, as a key of dictionaries."""

    def __init__(self, tensor: Tensor) -> None:
        self.key = (tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device)

    def make(self) -> Tensor:
        shape, stride, dtype, device = self.key
        elements = 1 + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
        return torch.randn(elements, device=device).to(dtype).as_strided(shape, stride)  # expanded tensors overlap

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Like) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def _freeze(arguments: Any) -> Any:
    return tuple(_freeze(item) for item in arguments) if isinstance(arguments, (list, tuple)) else arguments


def training_batches(options: argparse.Namespace) -> Iterator[Batch]:
    """Yield batches of the packaged photos or clips, loaded as in training."""
    settings = {"size": options.size, "batch_size": options.batch, "workers": options.workers, "repeats": 100000}
    if options.frames:
        data = VideoData(Clips("train"), Clips("validation"), frames=options.frames, **settings)
    else:
        data = ImageData(Photos("train"), Photos("validation"), **settings)
    data.setup("fit")
    return iter(data.train_dataloader())


def measure(options: argparse.Namespace) -> None:
    """Measure and print the tables."""
    device = options.device
    shape = (options.batch, 3, *([options.frames] if options.frames else []), options.size, options.size)
    batches = None if options.no_data else training_batches(options)
    pixels = torch.rand(shape) * 2 - 1 if batches is None else next(batches).pixels
    batch = Batch(pixels.to(device), ["benchmark"] * options.batch)

    def precision(*, enabled: bool) -> AbstractContextManager[Any]:
        return torch.autocast(device, torch.bfloat16) if enabled else nullcontext()

    def arrange(module: TokenizerTraining) -> TokenizerTraining:
        return module.to(memory_format=torch.channels_last) if options.channels_last else module

    eager = arrange(build_module(options, compiled=False))
    convolutions = Convolutions()
    step = Step(copy.deepcopy(eager), batch, precision(enabled=options.bf16), options.clip, ddp=False)
    step()
    with convolutions:
        step()
    convolutions.prepare()
    module = arrange(build_module(options, compiled=True)) if options.compile else eager
    main = Step(module, batch, precision(enabled=options.bf16), options.clip, ddp=options.nccl)
    steps: dict[str, Callable[[], None]] = {"step": main}
    one_grid = len(eager.tokenizer.layout((options.size, options.size), options.frames).grids) == 1
    if eager.gan is not None and not eager.tokenizer.bottleneck.branches and one_grid:
        steps["published step"] = PublishedStep(copy.deepcopy(eager), batch, precision(enabled=options.bf16))
    if options.plain:
        plain = argparse.Namespace(**{**vars(options), "fused": False})
        steps["step without options"] = Step(
            build_module(plain, compiled=False), batch, precision(enabled=False), options.clip, ddp=False
        )
    steps["convolutions alone"] = convolutions
    memory = {}
    for name, call in steps.items():
        call()  # warm-up, and compilation
        memory[name] = peak_memory(call, device)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    parts: list[dict[str, float]] = []
    for number in range(options.rounds):
        print(f"Round {number + 1} of {options.rounds}", file=sys.stderr)
        for name, call in steps.items():
            seconds[name].append(time_call(call, device))
        parts.append(step.parts(batches))
    print_tables(options, seconds, memory, parts)
    if options.profile:
        print_profile(main, device)


def print_tables(
    options: argparse.Namespace,
    seconds: dict[str, list[float]],
    memory: dict[str, float],
    parts: list[dict[str, float]],
) -> None:
    """Print the two Markdown tables. Ratios are medians of the ratios of the rounds."""
    print("| | s | samples per second | peak MiB | relative to the step |\n|---|---|---|---|---|")
    for name, values in seconds.items():
        ratio = statistics.median(value / step for value, step in zip(values, seconds["step"], strict=True))
        median = statistics.median(values)
        print(f"| {name} | {median:.3f} | {options.batch / median:.3g} | {memory[name]:.0f} | {ratio:.2f} |")
    names = list(parts[0])
    shares = {name: statistics.median(row[name] / sum(row.values()) for row in parts) for name in names}
    print("\n| " + " | ".join(names) + " |\n|" + "---|" * len(names))
    print("| " + " | ".join(f"{share:.1%}" for share in shares.values()) + " |")


def print_profile(step: Callable[[], None], device: str) -> None:
    """Print the operations in which a step spends its time."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    activities += [torch.profiler.ProfilerActivity.CUDA] if device == "cuda" else []
    with torch.profiler.profile(activities=activities) as profile:
        step()
    print(profile.key_averages().table(sort_by=f"self_{device}_time_total", row_limit=25, max_name_column_width=45))


def main() -> None:
    """Parse the options, measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="wetok/f16.yaml", help="recipe (default: %(default)s)")
    parser.add_argument(
        "--channels", type=int, help="base number of channels (default: 32 on a CPU, else the recipe's)"
    )
    parser.add_argument("--size", type=int, default=128, help="height and width in pixels (default: %(default)s)")
    parser.add_argument("--frames", type=int, help="frames per clip (default: images)")
    parser.add_argument("--batch", type=int, default=2, help="samples per step (default: %(default)s)")
    parser.add_argument("--perceptual", choices=sorted(NETWORKS), default="st_lpips", help="default: %(default)s")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=5, help="rounds after the warm-up (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="processes that load data (default: %(default)s)")
    parser.add_argument("--no-data", action="store_true", help="random pixels, without loading data")
    parser.add_argument("--clip", type=float, help="gradient_clip_val of the trainer (default: none)")
    parser.add_argument("--bf16", action="store_true", help="bfloat16 mixed precision")
    parser.add_argument("--channels-last", action="store_true", help="convolutions in the channels_last memory format")
    parser.add_argument("--compile", action="store_true", help="compile: true in the recipe")
    parser.add_argument("--fused", action="store_true", help="fused optimizer")
    parser.add_argument("--nccl", action="store_true", help="DDP in a group of one process: NCCL, or gloo on a CPU")
    parser.add_argument("--plain", action="store_true", help="also measure the step without these options")
    parser.add_argument("--profile", action="store_true", help="also print the operations that take the most time")
    options = parser.parse_args()
    if options.channels is None and options.device == "cpu":
        options.channels = 32
    if options.nccl:
        backend = "nccl" if options.device == "cuda" else "gloo"
        distributed.init_process_group(backend, store=distributed.HashStore(), rank=0, world_size=1)
    name = torch.cuda.get_device_name() if options.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    switches = [
        n.replace("_", "-") for n in ("bf16", "channels_last", "compile", "fused", "nccl") if getattr(options, n)
    ]
    print(
        f"{name}, torch {torch.__version__}, {options.recipe} with {options.channels or 'its'} channels, "
        f"{options.batch} x {f'{options.frames} x ' if options.frames else ''}{options.size} x {options.size}, "
        f"{', '.join(switches) or 'float32'}, perceptual network {options.perceptual}\n"
    )
    measure(options)
    if distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
