"""Lists of many paths."""

import pickle
from pathlib import Path

import pytest

from smalti.data.path_table import PathTable, digest_names


def test_a_table_is_a_sequence_of_the_same_paths():
    paths = [Path("a/b.jpg"), Path("c"), Path("ü/文.png"), Path("d\udcff.jpg"), Path("/e/f g.jpg")]
    for table in (PathTable(paths), PathTable(map(str, paths)), pickle.loads(pickle.dumps(PathTable(paths)))):
        assert list(table) == [table[index] for index in range(5)] == paths
        assert (len(table), table[-1], table[1:3]) == (5, paths[-1], paths[1:3])
        assert paths[2] in table
        with pytest.raises(IndexError):
            table[5]
    assert list(PathTable([])) == []


def test_a_million_paths_take_their_bytes_and_nine_more_each():
    names = (f"/data/train/n{index % 1000:08}/n{index % 1000:08}_{index:07}.JPEG" for index in range(1_000_000))
    table = PathTable(names)
    assert table[999_999] == Path("/data/train/n00000999/n00000999_0999999.JPEG")
    assert table._bytes.nbytes + table._ends.nbytes == 1_000_000 * (44 + 9) + 8
    assert set(vars(table)) == {"_bytes", "_ends", "_root"}  # nothing else is kept


def test_the_root_is_stored_once_and_is_not_part_of_the_digest():
    names = ["a/b.jpg", "ü.png", "d\udcff.jpg"]
    table = PathTable(names, Path("/data"))
    assert list(table) == [Path("/data") / name for name in names]
    assert [table.relative(index) for index in range(3)] == names
    assert table.digest() == PathTable(names).digest() == digest_names(names) != digest_names(reversed(names))
