"""Progress of commands on standard error: bars in a terminal, plain lines in logs and pipes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@dataclass
class _Task:
    """A task that is in progress; `start` is a time in seconds."""

    description: str
    total: int | None
    unit: str
    start: float
    show_speed: bool = False
    done: int = 0

    @property
    def speed(self) -> str:
        """Units per second since the start; empty if it is not shown."""
        seconds = time.monotonic() - self.start
        return f"{self.done / seconds:,.1f} {self.unit}/s" if self.show_speed and self.done and seconds else ""

    def __str__(self) -> str:
        total = "" if self.total is None or self.done > self.total else f"/{self.total}"
        text = f"{self.description}: {self.done}{total} {self.unit}" + (f", {self.speed}" if self.speed else "")
        if not total or not self.done:
            return text
        left = (time.monotonic() - self.start) / self.done * ((self.total or 0) - self.done)
        return f"{text}, {timedelta(seconds=round(left))} left"


class ProgressDisplay:
    """Shows the progress of one or several tasks on standard error. Use it as a context manager.

    In a terminal, every task has a bar, which disappears with the task. Elsewhere, a bar would fill the log with copies of
    itself: a line with all current tasks is printed at the first progress, then at most every `seconds`.

    Args:
        enabled: whether to show anything, for example on rank 0 only.
        seconds: minimum time between two lines, in seconds.
    """

    def __init__(self, *, enabled: bool = True, seconds: float = 10.0) -> None:
        self._console = Console(stderr=True)
        self._lines = enabled and not self._console.is_terminal
        self._seconds = seconds
        self._printed: float | None = None
        self._tasks: list[_Task] = []
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]} {task.fields[speed]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not enabled or self._lines,
        )

    def __enter__(self) -> ProgressDisplay:
        self._bars.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bars.__exit__(kind, error, traceback)

    @contextmanager
    def task(
        self, description: str, total: int | None, unit: str, *, show_speed: bool = False
    ) -> Iterator[Callable[..., None]]:
        """Show a task while the block runs.

        Args:
            description: what is done, or the name of a file.
            total: number of units; None if it is unknown.
            unit: what is counted, in the plural, such as "files".
            show_speed: whether to show units per second.

        Yields:
            A function to call with the number of units that are done, and with their total number if it has changed.
        """
        task = _Task(description, total, unit, time.monotonic(), show_speed)
        bar = self._bars.add_task(description, total=total, unit=unit, speed="")
        self._tasks.append(task)

        def update(done: int, total: int | None = None) -> None:
            task.done, task.total = done, task.total if total is None else total
            self._bars.update(bar, completed=done, total=task.total, speed=task.speed)
            self._print_line()

        try:
            yield update
        finally:
            self._tasks.remove(task)
            self._bars.remove_task(bar)

    def message(self, text: str) -> None:
        """Print a line above the bars."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _print_line(self) -> None:
        now = time.monotonic()
        if self._lines and (self._printed is None or now - self._printed >= self._seconds):
            self._printed = now
            self.message("; ".join(map(str, self._tasks)))
