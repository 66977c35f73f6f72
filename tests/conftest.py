"""Shared fixtures: small real tokenizers, parity vectors, a photo. Limits the number of threads."""

import json
import logging
import math
import os
import runpy
import socket
import sys
import traceback
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from safetensors import safe_open

# One thread is faster for small models, here and in the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

PARITY = Path(__file__).parent / "parity"


def _hash_to_uniform(name, n):
    """Return n pseudorandom numbers in [-1, 1) that depend only on the name, in exact integer arithmetic."""
    start = np.uint64(zlib.crc32(name.encode()))
    h = (np.arange(n, dtype=np.uint64) * np.uint64(2654435761) + start) & np.uint64(0xFFFFFFFF)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        h ^= h >> np.uint64(shift)
        h = (h * np.uint64(factor)) & np.uint64(0xFFFFFFFF)
    return h.astype(np.float64) / 2**32 * 2 - 1


def _make_parameter(key, shape):
    """Return the values that the parity files were computed with for the publisher's parameter `key`."""
    size = math.prod(shape)
    u = _hash_to_uniform(key, size).reshape(shape)
    last = key.rpartition(".")[2]
    if last == "timestep_scale_multiplier":
        values = np.full(shape, 1000.0)
    elif last == "gamma" or (last == "weight" and len(shape) == 1):
        values = 1 + 0.2 * u
    elif len(shape) >= 2:
        values = u * math.sqrt(3 / (size / shape[0]))
    else:
        values = 0.1 * u
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


class Vectors:
    """A parity file: the publisher's configuration and weights, and the outputs of the published code."""

    def __init__(self, name):
        with safe_open(PARITY / f"{name}.safetensors", "pt") as file:
            metadata = file.metadata()
            self.tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        self.config = json.loads(metadata["config"])
        shapes = json.loads(metadata["state_dict"])
        self.state_dict = {key: _make_parameter(key, tuple(shape)) for key, shape in shapes.items()}

    def __getitem__(self, name):
        return self.tensors[name]


@pytest.fixture(autouse=True)
def _remove_global_seed(monkeypatch):
    """Remove the seed that `smalti fit` leaves in the environment, where training in another test would read it."""
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)


@pytest.fixture(scope="session")
def vectors():
    """Return a function that opens a parity file by name."""
    return Vectors


@pytest.fixture(scope="session")
def stage1():
    return Vectors("wetok_stage1")


@pytest.fixture(scope="session")
def stage2():
    return Vectors("wetok_stage2_generative")


@pytest.fixture(scope="session")
def ltx_v090():
    return Vectors("ltx_v090")


@pytest.fixture(scope="session")
def ltx_v095():
    return Vectors("ltx_v095")


@pytest.fixture(scope="session")
def manifests():
    """Return the configuration and the shapes of the state dict of each published model, by name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted((PARITY / "manifests").glob("*.json"))}


@pytest.fixture
def small():
    """Return a function that builds the smallest WeTok tokenizer: stride 4, 2 x 4 bits per latent position."""
    from smalti.tokenizers import Tokenizer, WeTokDecoder, WeTokEncoder, WeTokGenerativeDecoder
    from smalti.tokenizers.bottlenecks import GQ

    def build(bottleneck=None, *, generative=False, seed=0):
        torch.manual_seed(seed)
        bottleneck = bottleneck or GQ(2, 4)
        shape = {"channels": 32, "multipliers": [1, 1, 1], "blocks": 1}
        decoder = WeTokGenerativeDecoder if generative else WeTokDecoder
        return Tokenizer(
            WeTokEncoder(bottleneck.in_dim, **shape), bottleneck, decoder(bottleneck.out_dim, **shape)
        ).eval()

    return build


@pytest.fixture(scope="session")
def photo():
    """Return a real photo, (1, 3, 64, 96) in [-1, 1]."""
    from skimage import data

    from smalti.pixels import uint8_to_pixels

    image = torch.from_numpy(data.chelsea()).permute(2, 0, 1)[None]
    return uint8_to_pixels(
        torch.nn.functional.interpolate(image.float(), (64, 96), mode="area").round().to(torch.uint8)
    )


@pytest.fixture
def share_noise(monkeypatch):
    """Return a function that patches `torch.randn` to return the same noise for the same shape.

    Two implementations then draw the same noise. The function returns the dictionary of all noise drawn so far, by shape.
    """
    noise, draw = {}, torch.randn

    def randn(shape, *, dtype=None, **_):
        return noise.setdefault(tuple(shape), draw(shape)).to(dtype or torch.float32)

    def patch():
        monkeypatch.setattr(torch, "randn", randn)
        return noise

    return patch


@pytest.fixture
def no_network(tmp_path, monkeypatch):
    """Simulate a machine without weights of metric networks and without network access."""

    from smalti.eval import pretrained_weights

    def download(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(pretrained_weights, "_failures", {})
    monkeypatch.setattr("torch.hub.download_url_to_file", download)
    monkeypatch.setattr("torch.hub._hub_dir", str(tmp_path / "hub"))
    monkeypatch.delenv("SMALTI_WEIGHTS", raising=False)


class Finished(NamedTuple):
    """A process that has ended, with everything that it has printed."""

    returncode: int
    output: str


@pytest.fixture
def run_ranks(tmp_path):
    """Return a function that runs a script as the ranks of one training. They find each other like those of torchrun.

    The processes are forks of this one, which saves the time of their imports.
    """

    def run(script, *arguments, ranks=2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        logs = [tmp_path / f"{Path(script).stem}-{port}-{rank}.log" for rank in range(ranks)]
        children = [
            _fork(Path(script), arguments, log, environment | ({"LOCAL_RANK": str(rank)} if ranks > 1 else {}))
            for rank, log in enumerate(logs)
        ]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        return [Finished(code, log.read_text()) for code, log in zip(codes, logs, strict=True)]

    return run


def _fork(script, arguments, log, environment):
    """Start a process that runs a script and prints to a file. Return its number."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        file = log.open("w", buffering=1)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.stdout = sys.stderr = file
        logging.root.handlers.clear()  # those of pytest
        os.environ.update(environment)
        sys.path[:0] = [str(script.parent), str(Path(__file__).parent)]
        sys.argv = [str(script), *arguments]
        runpy.run_path(str(script), run_name="__main__")
        code = 0
    except BaseException as error:  # any: the process must not continue with the tests of its parent
        code = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)
