"""Several processes divide the shards, and write what one process writes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from smalti.errors import SmaltiError
from smalti.tokenization import processes
from smalti.tokenization.processes import Rank, find_rank, rank_device, run_processes

ROOT = Path(__file__).parents[2]


def test_ranks_of_torchrun_and_slurm_are_found():
    slurm = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "1"}
    assert find_rank({"RANK": "2", "WORLD_SIZE": "8", "LOCAL_RANK": "0"} | slurm) == Rank(2, 8, 0)
    assert find_rank(slurm) == Rank(3, 4, 1)
    script = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0"}
    assert find_rank(script) is None  # a command in a batch script without srun has all the work
    assert find_rank({}) is find_rank({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}) is None
    with pytest.raises(SmaltiError, match="SLURM_PROCID=x"):
        find_rank(slurm | {"SLURM_PROCID": "x"})


def test_every_item_belongs_to_one_rank():
    items = list(range(17))
    assert sorted(item for rank in range(5) for item in Rank(rank, 5).select(items)) == items


@pytest.mark.parametrize(
    "names", [("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")]
)
def test_ranks_write_what_one_process_writes(work, bulk, content, monkeypatch, capsys, names):
    assert bulk("one", format_="parquet") == 0
    for rank in (2, 0, 1):  # in any order
        for name, value in zip(names, (rank, 3, rank), strict=True):
            monkeypatch.setenv(name, str(value))
        assert bulk("ranks", format_="parquet") == 0
        assert f"process {rank} of 3: " in capsys.readouterr().out
    assert content(work / "one") == content(work / "ranks")


@pytest.mark.slow
def test_one_command_starts_several_processes(work, bulk, content):
    assert bulk("one") == 0
    options = [
        "--tokenizer",
        "tokenizer",
        "--data",
        "photos",
        "--protocol",
        "square32",
        "--format",
        "npy",
        "--out",
        "two",
    ]
    options += ["--workers", "0", "--batch-size", "4", "--samples-per-shard", "10", "--processes", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "smalti", "tokenize-dataset", *options], env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "process 0 of 2: 13 rows in 2 shards" in done.stdout
    assert "process 1 of 2: 10 rows in 1 shard\n" in done.stdout
    assert content(work / "one") == content(work / "two")


def test_each_gpu_gets_a_process(work, bulk, monkeypatch):
    started = []

    class Started:
        def __init__(self, arguments, env):
            started.append((arguments[-1], *(env[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))))

        def wait(self):
            return 0

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(processes.subprocess, "Popen", Started)
    assert bulk("tokens", "--device", "auto") == 0
    assert started == [("auto", str(rank), "3", str(rank)) for rank in range(3)]
    assert [rank_device(name, Rank(4, 6, 1)) for name in ("auto", "cuda", "cpu", "cuda:2")] == [
        "cuda:1", "cuda:1", "cpu", "cuda:2",
    ]  # fmt: skip
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # SLURM shows each process its own GPU only
    assert rank_device("auto", Rank(4, 6, 1)) == "cuda:0"


def test_errors_appear_once_before_processes_start(work, bulk, error_message):
    assert "There is no format" in error_message(bulk, "x", "--processes", "2", format_="hdf5")
    assert "does not exist" in error_message(bulk, "x", "--processes", "2", protocol="square")
    assert not (work / "x").exists()


def test_a_killed_process_is_reported(work, monkeypatch):
    program = work / "program"
    program.write_text(f"#!/bin/sh\nkill -{signal.SIGKILL} $$\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(SmaltiError, match="Process 0 was killed by SIGKILL"):
        run_processes([], 2)


@pytest.mark.parametrize("address", ["auto", "127.0.0.1:1", "ray://127.0.0.1:1", "nowhere:x"])
def test_a_cluster_that_cannot_be_reached_is_one_sentence(work, bulk, error_message, monkeypatch, address):
    pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert f"Ray cannot be reached at '{address}'" in error_message(bulk, "x", "--ray", address)
    assert not (work / "x").exists()


@pytest.mark.slow
def test_ray_writes_what_one_process_writes(work, bulk, content):
    pytest.importorskip("ray")
    assert bulk("one", format_="webdataset") == 0
    options = ["--tokenizer", "tokenizer", "--data", "photos", "--protocol", "square32", "--format", "webdataset"]
    options += ["--out", "ray", "--workers", "0", "--batch-size", "4", "--samples-per-shard", "10"]
    done = subprocess.run(
        [sys.executable, "-m", "smalti", "tokenize-dataset", *options, "--ray", "local", "--processes", "2"],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "23 rows in 3 shards" in done.stdout
    assert content(work / "one") == content(work / "ray")
    assert json.loads((work / "ray" / "tokens-000000.json").read_text())["shard"]["rows"] == 10
