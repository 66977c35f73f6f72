"""Running a job on a Ray cluster with Ray Data: the units are rows of a dataset, and each worker tokenizes some.

The machines need the same paths to the data, the tokenizer and the folder to write to, such as a shared file system.
Workers run the same code as one process (`run_units`).
"""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from typing import Any

from smalti.errors import MissingExtraError, SmaltiError
from smalti.extensions import IMPORT_VARIABLE, import_requested_modules
from smalti.tokenization.job import Job, OpenedJob
from smalti.tokenization.run import Summary, check_failures, find_marker, run_units

LOCAL = "local"
"""Address that starts a new Ray on this machine."""

_TIMEOUT = 10.0
"""Seconds to wait for the first answer of a cluster."""


class UnitWorker:
    """A worker of the fleet: opens the job once, and tokenizes units.

    Args:
        job: the job, on the device of the worker.
    """

    def __init__(self, job: Job) -> None:
        import_requested_modules([])
        # Each worker sees a part of the units: the whole dataset is checked when all are done.
        self._opened = OpenedJob(replace(job, max_bad=1.0))

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Tokenize a unit.

        Args:
            row: the index of the unit.

        Returns:
            The row, and the reason if the unit could not be tokenized.
        """
        try:
            run_units(self._opened, [self._opened.units[row["unit"]]])
        except SmaltiError as error:  # Ray would show a traceback
            return row | {"error": str(error)}
        return row | {"error": ""}


def run_on_ray(job: Job, address: str, workers: int | None) -> Summary:
    """Tokenize all units that are not done yet on a Ray cluster.

    Args:
        job: the job. On a cluster with GPUs, each worker gets one.
        address: address of the cluster; "auto" for the one that this machine belongs to; `LOCAL` for a new one.
        workers: number of workers; None for one per GPU of the cluster, or per CPU if it has none.

    Raises:
        SmaltiError: a unit cannot be tokenized, the cluster cannot be reached, or too many samples are unreadable.
        MissingExtraError: Ray is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError:
        raise MissingExtraError("Ray Data", "ray", "Jobs on a cluster") from None

    _connect(ray, address, workers)
    try:
        opened = OpenedJob(replace(job, device="cpu"))
        pending = [index for index, unit in enumerate(opened.units) if find_marker(opened, unit) is None]
        skipped = len(opened.units) - len(pending)
        errors = _run_workers(ray, job, pending, workers)
    finally:
        ray.shutdown()
    if errors:
        raise SmaltiError(errors[0])
    markers = [marker for unit in opened.units if (marker := find_marker(opened, unit, damaged=True)) is not None]
    summary = Summary(markers, skipped)
    check_failures(opened, summary)
    return summary


def _connect(ray: Any, address: str, workers: int | None) -> None:
    """Connect to a cluster, or start one on this machine.

    Raises:
        SmaltiError: the cluster cannot be reached.
    """
    variables = {name: os.environ[name] for name in ("PYTHONPATH", IMPORT_VARIABLE) if name in os.environ}
    try:
        if ":" in address:  # Ray would try for many minutes
            host, _, port = address.removeprefix("ray://").rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), timeout=_TIMEOUT).close()
        ray.init(
            address=None if address == LOCAL else address,
            num_cpus=workers if address == LOCAL else None,
            include_dashboard=False,
            log_to_driver=False,
            runtime_env={"env_vars": variables},
        )
    except Exception as error:  # Ray raises errors of many kinds, such as ConnectionError and RuntimeError
        reason = str(error).splitlines()[0].rstrip(".")
        raise SmaltiError(f"Ray cannot be reached at '{address}' ({reason}): start it with `ray start`.") from error


def _run_workers(ray: Any, job: Job, pending: list[int], workers: int | None) -> list[str]:
    """Tokenize units on the cluster, and return the errors."""
    if not pending:
        return []
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0)) if job.device in ("auto", "cuda") else 0
    count = min(workers or gpus or int(resources.get("CPU", 1)), len(pending))
    device = "cuda" if gpus else ("cpu" if job.device == "auto" else job.device)
    # Ray shows each worker its own GPU only. Paths are relative to the working directory of this process.
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    rows = ray.data.from_items([{"unit": index} for index in pending], override_num_blocks=len(pending))
    results = rows.map(
        UnitWorker,
        fn_constructor_args=[_with_absolute_paths(replace(job, device=device))],
        compute=ray.data.ActorPoolStrategy(size=count),
        num_gpus=1 if gpus else 0,
        num_cpus=1,
    )
    return [row["error"] for row in results.take_all() if row["error"]]


def _with_absolute_paths(job: Job) -> Job:
    """Return a job whose paths do not depend on the working directory, which workers do not share."""
    paths = {name: os.path.abspath(getattr(job, name)) for name in ("tokenizer", "out")}  # noqa: PTH100
    kind, colon, place = job.data.partition(":")
    data = job.data
    if os.path.exists(data) or (".tar" in data and "://" not in data and not colon):  # noqa: PTH110
        data = os.path.abspath(data)  # noqa: PTH100
    elif kind in ("images", "videos") and "://" not in place and not place.startswith("pipe:"):
        data = f"{kind}:{os.path.abspath(place)}"  # noqa: PTH100
    optional = {
        name: os.path.abspath(value)  # noqa: PTH100
        for name in ("normalize", "vocabulary")
        if (value := getattr(job, name)) is not None and os.path.exists(value)  # noqa: PTH110
    }
    return replace(job, data=data, **paths, **optional)
