"""Opening a folder of a million images: time to list it, time to read its index, and memory per path.

    python benchmarks/folder_index.py [--files 1280000] [--folders 1000] [--where /dev/shm]

Creates empty files with the names of ImageNet in a temporary folder, and removes them. Memory is that of a process that has
read every name once: for the parent, the increase of its private memory; for a worker, the memory that it does not share.
"""

from __future__ import annotations

import argparse
import gc
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from smalti.data import Folder, folder_index


def private_bytes() -> int:
    """Return the memory that only this process uses."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def create(root: Path, files: int, folders: int) -> None:
    """Write empty files n00000001/n00000001_0000001.JPEG, ..."""
    for number in range(folders):
        folder = root / f"n{number:08}"
        folder.mkdir()
        for index in range(number, files, folders):
            os.close(os.open(f"{folder}/n{number:08}_{index:07}.JPEG", os.O_CREAT | os.O_WRONLY))


def read_all(names: Callable[[int], object], count: int) -> int:
    """Use every name once, far from one another, as training does, and return the private memory of the process."""
    for number in range(count):
        names(number * 1_000_003 % count)  # the factor is prime
    return private_bytes()


def in_worker(measure: Callable[[], int]) -> int:
    """Return by how much the private memory of a forked process grows while it runs `measure`."""
    gc.freeze()  # a garbage collection in the process would copy the objects of the parent
    reader, writer = os.pipe()
    if os.fork() == 0:
        before = private_bytes()
        os.write(writer, str(measure() - before).encode())
        os._exit(0)
    os.wait()
    return int(os.read(reader, 100))


def main() -> None:
    """Print the figures as a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=1_280_000)
    parser.add_argument("--folders", type=int, default=1000)
    parser.add_argument("--where", default="/dev/shm")
    options = parser.parse_args()
    count = options.files
    with tempfile.TemporaryDirectory(dir=options.where) as folder, tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        root = Path(folder)
        create(root, count, options.folders)
        time.sleep(folder_index._SETTLED)

        def timed() -> tuple[Folder, float]:
            start = time.perf_counter()
            source = Folder(root)
            return source, time.perf_counter() - start

        listing = timed()[1]
        index_size = sum(file.stat().st_size for file in Path(cache).rglob("*.safetensors"))
        gc.collect()
        before = private_bytes()
        source, reading = timed()
        parent = private_bytes() - before
        worker = in_worker(lambda: read_all(source.name, count))
        start = time.perf_counter()
        source.digest()
        digest = time.perf_counter() - start
        before = private_bytes()
        paths = list(source.paths)
        list_parent = private_bytes() - before
        list_worker = in_worker(lambda: read_all(lambda index: str(paths[index]), count))
        print(f"{count} files in {options.folders} folders; index: {index_size / count:.0f} bytes per path")
        print(f"list and write the index: {listing:.2f} s; read and check the index: {reading:.2f} s", end="; ")
        print(f"ratio {listing / reading:.1f}; digest: {digest:.2f} s")
        print(f"bytes per path in the parent: {parent / count:.0f}, list of Path objects: {list_parent / count:.0f}")
        print(f"bytes per path in a worker: {worker / count:.0f}, list of Path objects: {list_worker / count:.0f}")


if __name__ == "__main__":
    main()
