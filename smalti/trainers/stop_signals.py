"""Stopping all ranks together after a signal: Ctrl-C, SIGTERM, or the signal with which SLURM requeues a job."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from typing import Any, NoReturn

import lightning.pytorch as pl
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

from smalti.distributed import gather

log = logging.getLogger(__name__)


class Stopped(SystemExit):
    """All ranks stop together between two optimizer steps, because of a signal.

    The exit code is 128 plus the number of the signal: 143 for SIGTERM, 130 for Ctrl-C.
    """


class StopSignals:
    """Handles SIGINT and SIGTERM, and in a SLURM job the signal to requeue it, instead of Lightning.

    A handler only requests a stop, because it runs at any point of a step. Lightning's handlers save a checkpoint or
    exchange tensors at this point: the checkpoint is not exact, and the ranks wait for each other forever. A second SIGINT
    raises a KeyboardInterrupt; any other second signal changes nothing.

    Args:
        trainer: the trainer.
        request: function that requests a stop. It may be called at any time.
    """

    def __init__(self, trainer: pl.Trainer, request: Callable[[], None]) -> None:
        self._request = request
        self._received: int | None = None
        self._is_global_zero = trainer.is_global_zero
        environment = trainer._accelerator_connector.cluster_environment
        self._requeue_signal: int | None = None
        if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
            self._requeue_signal = environment.requeue_signal
        if threading.current_thread() is not threading.main_thread():
            return  # Python can only install handlers in the main thread
        for number in (signal.SIGINT, signal.SIGTERM, self._requeue_signal):
            # A handler that was not installed from Python (None) could not be restored, and is left in place. Lightning
            # restores all others when training ends.
            if number is not None and signal.getsignal(number) is not None:
                signal.signal(number, self._handle)
        # Lightning asks all ranks for SIGTERM before every batch, and waits for the device. Its handler is not used.
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None

    def _handle(self, number: int, _frame: Any) -> None:
        """Request a stop after the current step."""
        if self._received is not None:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self._received = number
        self._request()
        if self._is_global_zero:
            hint = "; press Ctrl-C again to stop immediately" if number == signal.SIGINT else ""
            log.info("Received %s: stopping after this step and saving%s.", signal.Signals(number).name, hint)

    def stop(self) -> NoReturn:
        """Stop. All ranks must call this together.

        Raises:
            Stopped: always, with the same code on all ranks.
        """
        received = {number for number in gather(self._received) if number is not None}
        requeue = self._requeue_signal in received
        self._received = self._requeue_signal if requeue else max(received, default=int(signal.SIGTERM))
        assert self._received is not None
        raise Stopped(128 + self._received)

    def requeue(self) -> None:
        """Ask SLURM to start the job again, on rank 0, if its signal to do so was received."""
        if self._requeue_signal is None or self._received != self._requeue_signal or not self._is_global_zero:
            return
        array, job = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ["SLURM_JOB_ID"]
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else job
        try:
            code = subprocess.run(["scontrol", "requeue", job], check=False).returncode
        except OSError as error:
            log.error("SLURM job %s could not be requeued (%s): submit it again.", job, error)
            return
        if code == 0:
            log.info("Requeued SLURM job %s.", job)
        else:
            log.error("SLURM job %s could not be requeued (scontrol failed with code %d): submit it again.", job, code)
