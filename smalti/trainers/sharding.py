"""Sharded training (FSDP2): each process keeps only a part of the tokenizer's weights, gradients and optimizer state."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from smalti.distributed import broadcast_from_rank_0, rank
from smalti.errors import SmaltiError
from smalti.tokenizers.configurable import from_config, get_config
from smalti.tokenizers.layers.activation_checkpointing import CheckpointedBlock
from smalti.tokenizers.tokenizer import Tokenizer

T = TypeVar("T")


class FSDP2Strategy(DDPStrategy):
    """Data parallelism that shards the encoder and the decoder over all processes (torch's `fully_shard`).

    A block's weights are gathered when it runs, and its gradients are averaged and scattered right after its backward pass.
    Between them, a process holds its own shard of weights, gradients, optimizer state and averaged weights. Everything
    else is small and stays whole on every process: the bottleneck, the discriminator, and parameters without a dimension.
    `TokenizerTraining` averages their gradients. Checkpoints contain whole weights and optimizer state, as without
    sharding: runs with another strategy resume from them, and the other way around.

    The trainer calls it `fsdp2`: `--trainer.strategy fsdp2`. All processes must train on the same kind of batch, images or
    clips, at the same time. Validation and test commands, which need no gradients, do not shard.

    Args:
        process_group_backend: see `DDPStrategy`; None: nccl on GPUs, gloo on CPUs.
        timeout: how long a process waits for the others in a collective operation.
    """

    strategy_name = "fsdp2"

    def __init__(self, process_group_backend: str | None = None, timeout: timedelta = timedelta(minutes=30)) -> None:
        super().__init__(process_group_backend=process_group_backend, timeout=timeout)
        self._mesh: DeviceMesh | None = None

    def configure_ddp(self) -> None:
        """Shard the tokenizer, instead of wrapping the training module into DDP.

        Raises:
            SmaltiError: the module was sharded before.
        """
        module = self.lightning_module
        assert module is not None
        if is_sharded(module):
            raise SmaltiError("An earlier run has sharded this module: build a new one for each run with fsdp2.")
        for tensor in (*module.parameters(), *module.buffers()):
            broadcast_from_rank_0(tensor.detach())
        self.shard(cast(Tokenizer, module.tokenizer))

    def shard(self, tokenizer: Tokenizer) -> None:
        """Shard the encoder and the decoder of a tokenizer in place, block by block. The names of weights do not change."""
        if self._mesh is None:
            self._mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        for network in (tokenizer.encoder, tokenizer.decoder):
            # fully_shard refuses parameters without a dimension.
            whole = {p for p in network.parameters() if p.ndim == 0}
            blocks = [block for block in network.modules() if isinstance(block, CheckpointedBlock)]
            for module in (*blocks, network):
                fully_shard(module, mesh=self._mesh, ignored_params=whole)
            # The output may be a view. `Tokenizer` does not change it in place, which PyTorch warns about.
            name = re.escape(type(network).__name__)
            warnings.filterwarnings("ignore", rf"FSDP2-wrapped module \({name}\) returned a view", UserWarning)

    def setup_optimizers(self, trainer: Any) -> None:
        """Build the optimizer on the shards.

        Raises:
            SmaltiError: the optimizer would process whole and sharded parameters together, which PyTorch cannot do.
        """
        super().setup_optimizers(trainer)
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            kinds = {isinstance(p, DTensor) for p in group["params"]}
            if len(kinds) > 1 and (option := next((name for name in ("fused", "foreach") if group.get(name)), None)):
                raise SmaltiError(
                    f"With strategy fsdp2, this {group['name']} has sharded and whole parameters, which {option}: true "
                    f"cannot process together: remove model.optimizer.{option}."
                )

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the whole weights on rank 0. All ranks must call this."""
        return gather_shards(super().lightning_module_state_dict())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the whole state of the optimizer on rank 0. All ranks must call this."""
        return gather_shards(super().optimizer_state(optimizer))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Load this process's shard of the optimizer's state."""
        states = [
            _shard_optimizer_state(state, optimizer)
            for state, optimizer in zip(checkpoint["optimizer_states"], self.optimizers, strict=True)
        ]
        super().load_optimizer_state_dict({"optimizer_states": states})


StrategyRegistry.register(
    FSDP2Strategy.strategy_name, FSDP2Strategy, description="FSDP2: shards weights, gradients and optimizer state"
)


def is_sharded(module: nn.Module) -> bool:
    """Return whether a parameter of the module is a shard."""
    return any(isinstance(p, DTensor) for p in module.parameters())


def local_part(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that is on this process: its shard if it is sharded, which shares the memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gather_like(local: Tensor, parameter: Tensor) -> Tensor:
    """Return the whole tensor of which this process has the part that it has of a parameter.

    If the parameter is sharded, all ranks must call this.

    Args:
        local: a tensor of the shape of the local part of the parameter.
        parameter: the parameter.
    """
    if not isinstance(parameter, DTensor):
        return local
    placement = {"shape": parameter.shape, "stride": parameter.stride()}
    return DTensor.from_local(local, parameter.device_mesh, parameter.placements, **placement).full_tensor()


def take_shard(whole: Tensor, parameter: Tensor) -> Tensor:
    """Return the part of a tensor that this process has of a parameter of the same shape, without communication."""
    if not isinstance(parameter, DTensor):
        return whole
    # Every process has the whole tensor.
    return distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None).to_local()


def gather_shards(state: T) -> T:
    """Return a state on rank 0 with whole tensors, on the CPU, instead of shards.

    All ranks must call this. On the others, the tensors are empty, because only rank 0 writes checkpoints.

    Args:
        state: nested dictionaries and lists.
    """

    def gather(tensor: DTensor) -> Tensor:
        whole = tensor.full_tensor()
        return whole.cpu() if rank() == 0 else whole.new_empty(0)

    return tree_map_only(DTensor, gather, state)


def unshard(tokenizer: nn.Module) -> None:
    """Gather all weights on every process until `reshard`. All ranks must call this.

    In between, ranks may call the tokenizer a different number of times, as in validation.
    """
    for module in _sharded_modules(tokenizer):
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()


def reshard(tokenizer: nn.Module) -> None:
    """Free the weights of the other processes again. Without an `unshard` before, nothing happens."""
    for module in _sharded_modules(tokenizer):
        module.reshard()
        module.set_reshard_after_forward(True, recurse=False)


@contextmanager
def whole_weights(tokenizer: Tokenizer) -> Iterator[Tokenizer]:
    """Yield the tokenizer, or a copy with whole weights if it is sharded, from which the shards are set at the end.

    All ranks must call this, and leave the copy with the same weights.
    """
    if not is_sharded(tokenizer):
        yield tokenizer
        return
    whole = cast(Tokenizer, from_config(get_config(tokenizer))).train(tokenizer.training)
    state = {name: t.full_tensor() if isinstance(t, DTensor) else t for name, t in tokenizer.state_dict().items()}
    whole.load_state_dict(state)
    yield whole.to(next(iter(state.values())).device)
    with torch.no_grad():
        changed = whole.state_dict()
        for name, tensor in tokenizer.state_dict().items():
            local_part(tensor).copy_(take_shard(changed[name], tensor))


def _sharded_modules(tokenizer: nn.Module) -> list[FSDPModule]:
    return [module for module in tokenizer.modules() if isinstance(module, FSDPModule)]


def _shard_optimizer_state(state: dict[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """Return the whole state of an optimizer with shards instead of the tensors that belong to sharded parameters."""
    ids = [i for group in state["param_groups"] for i in group["params"]]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    shards = dict(state["state"])
    for i, parameter in zip(ids, parameters, strict=True):
        if i in shards and isinstance(parameter, DTensor):
            shards[i] = {name: _shard_like(value, parameter) for name, value in shards[i].items()}
    return {**state, "state": shards}


def _shard_like(value: Any, parameter: DTensor) -> Any:
    """Shard a value like a parameter if it has the shape of it; others, such as the number of steps, stay whole."""
    if not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    on_device = value.to(parameter.device)
    # Every process has the whole tensor, from the checkpoint: it takes its part, without communication.
    return distribute_tensor(on_device, parameter.device_mesh, parameter.placements, src_data_rank=None)
