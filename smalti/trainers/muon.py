"""Muon: momentum, orthogonalized, for the matrices of hidden layers; Adam for all other parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args, overload

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adam import adam
from torch.optim.optimizer import ParamsT

from smalti.distributed import rank, start_sum_over_ranks, world_size
from smalti.errors import SmaltiError
from smalti.trainers.newton_schulz import MAX_STEPS, fast_dtype, orthogonalize_all
from smalti.trainers.sharding import gather_like, local_part, take_shard

LearningRateAdjustment = Literal["original", "match_rms_adamw"]
"""How the learning rate of a matrix depends on its shape; the names are those of `torch.optim.Muon`."""

MATRIX_KEY = "is_hidden_matrix"
"""The entry of a parameter group that says, for each parameter, whether it is a matrix of a hidden layer."""

ADAM_FACTOR_KEY = "adam_factor"
"""The entry of a parameter group with Adam's learning rate relative to that of the group."""

_MAX_ELEMENTS = 2**26
"""Elements of the matrices that are gathered at a time, which limits the memory of a step."""


class Muon(Optimizer):
    r"""Muon for the matrices of hidden layers, and Adam for all other parameters, as one optimizer.

    A matrix W of shape (out, in), or a convolution flattened to (out, in * kernel size), with gradient G:

        B <- momentum B + (1 - momentum) G
        W <- W - lr weight_decay W - lr s NewtonSchulz(G + momentum (B - G))

    All singular values of the update are about 1, so that rare directions of the gradient move as far as frequent ones. The
    factor s of "original" is sqrt(max(1, out / in)); that of "match_rms_adamw" is 0.2 sqrt(max(out, in)), which gives the
    update the root mean square of Adam's, so that `lr` can be a learning rate that was tuned for Adam.

    In a recipe, `TokenizerTraining` says which parameters are hidden matrices: the weights of linear and convolutional
    layers, except the first and last layers of encoder and decoder (`smalti.trainers.hidden_matrices`):

        optimizer: {class_path: Muon, init_args: {lr: 0.01}}

    Everything else is updated by Adam with decoupled weight decay: biases, norms, first and last layers, bottleneck,
    discriminator. In a network with hidden matrices, a learning rate schedule scales `adam_lr` like `lr`. The learning rate
    of a group without any is `adam_lr`, unless the group has its own (`GANLoss.learning_rate`).

    With several processes, all of them must call `step` with the same gradients. Each orthogonalizes a part of the
    matrices, and one all-reduce gives all ranks the same updates, bit by bit. Sharded parameters (fsdp2) are gathered.

    torch.optim.Muon (2.14) takes no convolutions, and computes in bfloat16 on every device, which is slow on CPUs without
    it.

    Sources: Keller Jordan, "Muon: An optimizer for hidden layers in neural networks",
    https://kellerjordan.github.io/posts/muon; weight decay and "match_rms_adamw": "Muon is Scalable for LLM Training",
    arXiv 2502.16982, section 2.2.

    Args:
        params: parameters or parameter groups. An entry "is_hidden_matrix" of a group is a list with a bool for each
            parameter; without it, all parameters with at least two dimensions are hidden matrices.
        lr: learning rate of the hidden matrices.
        adam_lr: learning rate of all other parameters; None: `lr`.
        momentum: decay of the average of a matrix's gradients, in [0, 1).
        betas: decays of Adam's averages, each in [0, 1).
        weight_decay: decay of all parameters per step, multiplied with their learning rate.
        adjust_lr_fn: how the learning rate of a matrix depends on its shape: "original" or "match_rms_adamw".
        ns_steps: Newton-Schulz steps, from 1 to 10.
        eps: term in Adam's denominator.
        bfloat16: whether Newton-Schulz computes in bfloat16; None: if the device is faster with it, see `fast_dtype`.

    Raises:
        SmaltiError: an argument is out of range.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.01,
        adam_lr: float | None = 1e-3,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        adjust_lr_fn: LearningRateAdjustment = "original",
        ns_steps: int = 5,
        eps: float = 1e-8,
        bfloat16: bool | None = None,
    ) -> None:
        adam_lr = lr if adam_lr is None else adam_lr
        for name, value in (("lr", lr), ("adam_lr", adam_lr)):
            if not (math.isfinite(value) and value > 0):
                raise SmaltiError(f"The optimizer Muon has the {name} {value}: use a number greater than 0.")
        for name, value in (("momentum", momentum), *(("betas", beta) for beta in betas)):
            if not 0 <= value < 1:
                raise SmaltiError(f"The optimizer Muon has the {name} {value}: use at least 0 and less than 1.")
        for name, value in (("weight_decay", weight_decay), ("eps", eps)):
            if not value >= 0:
                raise SmaltiError(f"The optimizer Muon has the {name} {value}: use at least 0.")
        if adjust_lr_fn not in get_args(LearningRateAdjustment):
            raise SmaltiError(f"Muon has the adjust_lr_fn '{adjust_lr_fn}': use original or match_rms_adamw.")
        if not 1 <= ns_steps <= MAX_STEPS:
            raise SmaltiError(f"The optimizer Muon has the ns_steps {ns_steps}: use 1 to {MAX_STEPS}.")
        defaults: dict[str, Any] = {
            "lr": lr, "adam_lr": adam_lr, "momentum": momentum, "betas": tuple(betas), "weight_decay": weight_decay,
            "adjust_lr_fn": adjust_lr_fn, "ns_steps": ns_steps, "eps": eps, "bfloat16": bfloat16,
        }  # fmt: skip
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, see `params` of the class.

        Raises:
            SmaltiError: "is_hidden_matrix" has another length than the parameters.
        """
        has_own_lr = "lr" in param_group
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        flags = group.setdefault(MATRIX_KEY, [p.ndim >= 2 for p in group["params"]])
        if len(flags) != len(group["params"]):
            raise SmaltiError(
                f"A parameter group has {len(group['params'])} parameters, but {len(flags)} values of {MATRIX_KEY}: "
                "give one for each parameter."
            )
        if not any(flags) and not has_own_lr:
            group["lr"] = group["adam_lr"]
        # Schedules change "lr" only, and Adam's learning rate follows.
        group[ADAM_FACTOR_KEY] = group["adam_lr"] / self.defaults["lr"] if any(flags) else 1.0

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update all parameters that have a gradient. With several processes, all of them must call this.

        Args:
            closure: computes the loss and the gradients.

        Returns:
            The result of the closure.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            trained = [
                (p, flag) for p, flag in zip(group["params"], group[MATRIX_KEY], strict=True) if p.grad is not None
            ]
            self._update_matrices(group, [p for p, is_matrix in trained if is_matrix])
            self._update_others(group, [p for p, is_matrix in trained if not is_matrix])
        return loss

    def _update_matrices(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        if not parameters:
            return
        momentum, lr = group["momentum"], float(group["lr"])
        gradients = [local_part(_gradient(p)) for p in parameters]
        averages = [local_part(self._state(p, "momentum_buffer")["momentum_buffer"]) for p in parameters]
        torch._foreach_lerp_(averages, gradients, 1 - momentum)  # pyright: ignore[reportPrivateImportUsage]
        directions = torch._foreach_lerp(gradients, averages, momentum)  # pyright: ignore[reportPrivateImportUsage]
        bfloat16 = group["bfloat16"]
        dtype = {None: fast_dtype(averages[0].device), True: torch.bfloat16, False: torch.float32}[bfloat16]
        if group["weight_decay"]:
            local = [local_part(p) for p in parameters]
            torch._foreach_mul_(local, 1 - lr * group["weight_decay"])  # pyright: ignore[reportPrivateImportUsage]
        for indices in _split(parameters):
            whole = [gather_like(directions[i], parameters[i]).flatten(1) for i in indices]
            for i, update in zip(indices, _share_work(whole, group["ns_steps"], dtype), strict=True):
                parameter = parameters[i]
                rate = lr * _adjustment(update.shape, group["adjust_lr_fn"])
                shard = take_shard(update.view(parameter.shape), parameter)
                local_part(parameter).add_(shard.to(parameter.dtype), alpha=-rate)

    def _update_others(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        if not parameters:
            return
        states = [self._state(p, "exp_avg", "exp_avg_sq") for p in parameters]
        for state in states:
            state.setdefault("step", torch.zeros(()))  # on the CPU, as in torch.optim.Adam
        beta1, beta2 = group["betas"]
        # Shards and whole parameters cannot be mixed, but their local parts can.
        adam(
            [local_part(p) for p in parameters],
            [local_part(_gradient(p)) for p in parameters],
            [local_part(state["exp_avg"]) for state in states],
            [local_part(state["exp_avg_sq"]) for state in states],
            [],
            [state["step"] for state in states],
            decoupled_weight_decay=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=float(group["lr"]) * group[ADAM_FACTOR_KEY],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _state(self, parameter: Tensor, *names: str) -> dict[str, Any]:
        """Return the state of a parameter. It starts with zeros, also after another rule or optimizer has updated it."""
        state = self.state[parameter]
        if any(name not in state for name in names):
            state.clear()
            state.update({name: torch.zeros_like(parameter, memory_format=torch.preserve_format) for name in names})
        return state


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def _adjustment(shape: torch.Size, kind: LearningRateAdjustment) -> float:
    """Return the factor of the learning rate for a matrix (out, in)."""
    rows, columns = shape
    return math.sqrt(max(1.0, rows / columns)) if kind == "original" else 0.2 * math.sqrt(max(rows, columns))


def _split(parameters: list[Tensor]) -> Iterator[list[int]]:
    """Yield the indices of parameters that are processed together, in order."""
    indices: list[int] = []
    elements = 0
    for index, parameter in enumerate(parameters):
        if indices and elements + parameter.numel() > _MAX_ELEMENTS:
            yield indices
            indices, elements = [], 0
        indices.append(index)
        elements += parameter.numel()
    yield indices


def _share_work(matrices: list[Tensor], steps: int, dtype: torch.dtype) -> list[Tensor]:
    """Orthogonalize matrices that all ranks have. Each rank computes a part of them. All ranks must call this."""
    if world_size() == 1:
        return orthogonalize_all(matrices, steps, dtype)
    owners = _assign([min(m.shape) * m.numel() for m in matrices], world_size())
    mine = [index for index, owner in enumerate(owners) if owner == rank()]
    results = orthogonalize_all([matrices[index] for index in mine], steps, dtype)
    # The sum with zeros is exact, and an all-reduce needs no equal shares.
    packed = matrices[0].new_zeros(sum(m.numel() for m in matrices), dtype=dtype)
    parts = packed.split([m.numel() for m in matrices])
    for index, result in zip(mine, results, strict=True):
        parts[index].copy_(result.flatten())
    work = start_sum_over_ranks(packed)
    if work is not None:
        work.wait()
    return [part.view(matrix.shape) for part, matrix in zip(parts, matrices, strict=True)]


def _assign(costs: list[int], num_ranks: int) -> list[int]:
    """Return a rank for each item, so that the total costs of the ranks are similar: the largest first."""
    loads = [0] * num_ranks
    owners = [0] * len(costs)
    for index in sorted(range(len(costs)), key=lambda i: -costs[i]):
        owners[index] = loads.index(min(loads))
        loads[owners[index]] += costs[index]
    return owners
