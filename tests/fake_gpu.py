"""A GPU without hardware, to test which device tensors are on.

Tensors on the device "meta" keep their values in CPU memory, see `FakeGPU`. As on a GPU, an operation must not mix them
with CPU tensors, and the default process group only accepts tensors on the device, like NCCL. The mode also counts
collectives, and the points where the host waits for the device: copies of tensors or scalars to the host.
"""

from collections import Counter
from contextlib import nullcontext
from unittest import mock

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import distributed
from torch.distributed import distributed_c10d
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

DEVICE = torch.device("meta")


class FakeGPUTensor(torch.Tensor):
    """A tensor on the fake device. `value` has its values."""

    @staticmethod
    def __new__(cls, value):
        tensor = torch.Tensor._make_wrapper_subclass(
            cls, value.size(), strides=value.stride(), storage_offset=value.storage_offset(), dtype=value.dtype,
            device=DEVICE,
        )  # fmt: skip
        tensor.value = value
        return tensor

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return FakeGPU.current.run(func, args, kwargs or {})

    def tolist(self):
        return self.cpu().tolist()

    def __repr__(self):
        return f"FakeGPUTensor({self.value})"


class FakeGPU(TorchDispatchMode):
    """Runs operations on fake device tensors, and refuses what a GPU or NCCL would refuse."""

    current = None

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __enter__(self):
        FakeGPU.current = self
        # These functions do not dispatch the values of new tensors on the device "meta".
        self._patches = [
            mock.patch.object(torch, "tensor", _through_cpu(torch.tensor)),
            mock.patch.object(torch, "as_tensor", _through_cpu(torch.as_tensor)),
            mock.patch.object(torch, "autocast", _autocast(torch.autocast)),
            mock.patch.object(distributed_c10d, "_get_object_coll_device", _object_device),
        ]
        for patch in self._patches:
            patch.start()
        return super().__enter__()

    def __exit__(self, *error):
        for patch in self._patches:
            patch.stop()
        return super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return self.run(func, args, kwargs or {})

    def run(self, func, args, kwargs):
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
        on_device = [isinstance(x, FakeGPUTensor) for x in tensors]
        if func.namespace == "c10d":
            self._check_collective(func, args, tensors, on_device)
        elif any(on_device) and func.overloadpacket not in _MIXING and not _on_one_device(tensors):
            raise RuntimeError(f"{func}: expected all tensors to be on the same device.")
        target = kwargs.get("device")
        to_device = any(on_device) if target is None else torch.device(target) == DEVICE
        if target is not None and torch.device(target) == DEVICE:
            kwargs = kwargs | {"device": torch.device("cpu")}
        if any(on_device) and (func.overloadpacket is torch.ops.aten._local_scalar_dense or not to_device):
            self.counts["host waits"] += 1
        if func.overloadpacket is torch.ops.aten.copy_ and on_device == [False, True]:
            self.counts["host waits"] += 1
        inner_args, inner_kwargs = tree_map_only(FakeGPUTensor, lambda x: x.value, (args, kwargs))
        outputs = func(*inner_args, **inner_kwargs)
        if func.namespace == "c10d":
            to_device = any(on_device)
        # An operation in place returns its argument itself.
        originals = {id(x.value): x for x in tensors if isinstance(x, FakeGPUTensor)} | {
            id(x): x for x in tensors if not isinstance(x, FakeGPUTensor)
        }

        def wrap(x):
            return originals[id(x)] if id(x) in originals else FakeGPUTensor(x) if to_device else x

        return tree_map_only(torch.Tensor, wrap, outputs)

    def _check_collective(self, func, args, tensors, on_device):
        name = func.overloadpacket.__name__
        if name in ("barrier", "monitored_barrier_"):
            return
        group = next(
            x for x in tree_flatten(args)[0] if isinstance(x, torch.ScriptObject) and "ProcessGroup" in str(x._type())
        )
        if distributed.ProcessGroup.unbox(group).group_name != distributed.group.WORLD.group_name:
            return  # another group, for objects
        self.counts[name] += 1
        if not all(on_device):
            raise RuntimeError(f"{name}: No backend type associated with device type cpu")


def _on_one_device(tensors):
    """Return whether the operands of an operation on the device are on it. A scalar on the CPU may be an operand."""
    return all(isinstance(x, FakeGPUTensor) or x.ndim == 0 for x in tensors)


def _through_cpu(build):
    """Wrap `torch.tensor`: build the tensor on the CPU, and copy it to the device."""

    def wrapped(*args, device=None, **kwargs):
        tensor = build(*args, **kwargs)
        return tensor if device is None else tensor.to(device)

    return wrapped


def _object_device(group=None):
    """Return the device through which objects pass: the fake device for the default group, as with NCCL."""
    return DEVICE.type if group in (None, distributed.group.WORLD) else "cpu"


def _autocast(build):
    """Wrap `torch.autocast`, which does not know the device "meta"."""

    def wrapped(device_type, *args, **kwargs):
        return nullcontext() if device_type == DEVICE.type else build(device_type, *args, **kwargs)

    return wrapped


_MIXING = {
    torch.ops.aten.copy_, torch.ops.aten._to_copy, torch.ops.aten.index, torch.ops.aten.index_put,
    torch.ops.aten.index_put_,
}  # fmt: skip
"""Operations that take tensors on different devices."""


class FakeGPUStrategy(DDPStrategy):
    """DDP on fake GPUs, inside of `FakeGPU`."""

    def __init__(self):
        super().__init__(process_group_backend="gloo")

    @property
    def root_device(self):
        return DEVICE if distributed.is_initialized() else torch.device("cpu")

    def determine_ddp_device_ids(self):
        return None
