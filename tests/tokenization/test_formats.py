"""Each format returns the rows that were written, byte for byte the same for the same rows."""

import json
import struct
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from smalti.errors import SmaltiError
from smalti.tokenization.dataset_info import DatasetInfo
from smalti.tokenization.formats import FORMATS, find_format
from smalti.tokenization.formats.base import add_suffix
from smalti.tokenization.formats.megatron import IndexedDatasetReader, IndexedDatasetWriter, sequence_type
from smalti.tokenization.rows import Row
from smalti.types import Layout

GOLDEN = Path(__file__).parents[1] / "fixtures" / "megatron"


def make_info(format_, **changes):
    values = {
        "format": format_, "kind": "tokens", "fingerprint": "f" * 64, "tokenizer": "tokenizer", "branch": None,
        "tile": None, "precision": "float32", "preprocessing": ({"name": "square32"},), "arrays": ("ids",),
        "dtype": "uint16", "packed_bits": None, "codebook_size": "512", "tokens_per_position": 2, "statistics": None,
        "vocabulary": None, "columns": ("bin", "txt"), "smalti": "1", "torch": "2",
    }  # fmt: skip
    return DatasetInfo(**values | changes)


def make_rows(count=5, dtype="uint16", frames=None, arrays=("ids",), width=2):
    random = np.random.default_rng(0)
    for index in range(count):
        layout = Layout(grids=((1, 2, 3),) if frames is None else ((1, 2, 3), (2, 1, 1)), size=(15, 20), frames=frames)
        values = {name: random.integers(0, 500, (layout.positions, width)).astype(dtype) for name in arrays}
        columns = {"txt": f"line\n{index} ü", "bin": bytes([0, 255, index])} if index != 2 else {}
        rate = None if frames is None else Fraction(30000, 1001)
        yield Row(f"a/{index:03d}.png", index % 2, values, layout, rate, columns)


def write(base, info, rows):
    with find_format(info.format).write(base, info) as writer:
        for row in rows:
            writer.add(row)
    return [add_suffix(base, suffix).read_bytes() for suffix in find_format(info.format).suffixes(info)]


def assert_equal(row, expected):
    assert (row.key, row.version, row.rate, row.columns) == (
        expected.key, expected.version, expected.rate, expected.columns,
    )  # fmt: skip
    assert row.layout == expected.layout
    assert row.arrays.keys() == expected.arrays.keys()
    for name, array in row.arrays.items():
        assert array.dtype == expected.arrays[name].dtype
        assert (array == expected.arrays[name]).all()


@pytest.mark.parametrize("frames", [None, 9])
@pytest.mark.parametrize("name", FORMATS)
def test_rows_return_in_any_order_and_bytes_are_reproducible(tmp_path, name, frames):
    info, rows = make_info(name), [*make_rows(frames=frames)]
    first = write(tmp_path / "a.b", info, rows)
    assert write(tmp_path / "again", info, rows) == first
    reader = find_format(name).read(tmp_path / "a.b", info)
    assert len(reader) == len(rows)
    for index in (4, 0, 2, 1, 3, 3):
        assert_equal(reader.read(index), rows[index])


@pytest.mark.parametrize("name", ["webdataset", "parquet", "npy"])
def test_latents_and_packed_ids_return(tmp_path, name):
    info = make_info(name, kind="latents", arrays=("mean", "log_variance"), dtype="float16", columns=("bin", "txt"))
    rows = [*make_rows(dtype="float16", arrays=info.arrays)]
    write(tmp_path / "latents", info, rows)
    packed = make_info(name, packed_bits=9)
    packed_rows = [Row(r.key, 0, {"ids": np.arange(14, dtype=np.uint8)}, r.layout, None, {}) for r in rows]
    write(tmp_path / "packed", packed, packed_rows)
    for base, carried, written in (("latents", info, rows), ("packed", packed, packed_rows)):
        reader = find_format(name).read(tmp_path / base, carried)
        for index, row in enumerate(written):
            assert_equal(reader.read(index), row)


def test_npy_is_read_by_numpy_and_refuses_a_second_shape(tmp_path):
    rows = [*make_rows()]
    write(tmp_path / "a", make_info("npy"), rows)
    array = np.load(tmp_path / "a.ids.npy")
    assert array.shape == (5, 6, 2)
    assert (array == np.stack([row.arrays["ids"] for row in rows])).all()
    with pytest.raises(SmaltiError, match="npy holds one shape"):
        write(tmp_path / "b", make_info("npy"), [*rows, *make_rows(1, frames=9)])


def test_webdataset_is_read_by_webdataset(tmp_path):
    import webdataset

    rows = [*make_rows()]
    write(tmp_path / "a", make_info("webdataset"), rows)
    samples = [*webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False).decode()]
    assert [sample["__key__"] for sample in samples] == ["a/000", "a/001@v1", "a/002", "a/003@v1", "a/004"]
    for sample, row in zip(samples, rows, strict=True):
        assert (sample["ids.npy"] == row.arrays["ids"]).all()
        assert sample.get("txt") == row.columns.get("txt")


def test_keys_in_a_tar_are_unique_and_have_no_dots(tmp_path):
    layout = Layout(grids=((1, 1, 1),), size=(1, 1))
    ids = {"ids": np.zeros((1, 2), np.uint16)}
    keys = ["a.png", "a.jpg", "b.c.png", "v.mp4@1.250", "plain"]
    write(tmp_path / "a", make_info("webdataset"), [Row(key, 0, ids, layout, None, {}) for key in keys])
    reader = find_format("webdataset").read(tmp_path / "a", make_info("webdataset"))
    assert [reader.read(index).key for index in range(5)] == keys


def test_parquet_is_read_by_pyarrow_and_takes_the_bytes_of_its_ids(tmp_path):
    import pyarrow.parquet as pq

    layout = Layout(grids=((1, 16, 16),), size=(128, 128))
    ids = np.random.default_rng(0).integers(0, 2**16, (500, 256, 1)).astype(np.uint16)
    rows = [Row(f"{i:06d}", 0, {"ids": array}, layout, None, {}) for i, array in enumerate(ids)]
    (content,) = write(tmp_path / "a", make_info("parquet", columns=()), rows)
    table = pq.read_table(tmp_path / "a.parquet")
    assert table["ids"][3].as_py() == ids[3].tobytes()
    assert table["height"][3].as_py() == 128
    assert json.loads(table.schema.metadata[b"smalti"])["fingerprint"] == "f" * 64
    assert len(content) / ids.size < 2.5


def test_parquet_columns_are_the_same_in_every_shard(tmp_path):
    import pyarrow.parquet as pq

    rows = [*make_rows()]
    write(tmp_path / "a", make_info("parquet"), rows)
    write(tmp_path / "b", make_info("parquet"), rows[2:3])  # without columns
    assert pq.read_schema(tmp_path / "a.parquet").equals(pq.read_schema(tmp_path / "b.parquet"))


@pytest.mark.parametrize("part", [None, "with_modes"])
def test_megatron_files_equal_those_of_its_builder(tmp_path, part):
    golden = json.loads((GOLDEN / "megatron.json").read_text())
    golden = golden if part is None else golden[part]
    described = golden["content"]
    writer = IndexedDatasetWriter(tmp_path / "megatron", described["dtype"])
    modes = iter(described.get("sequence_modes", []))
    for document in described["documents"]:
        writer.add_document(document, [next(modes) for _ in document] if part else None)
    writer.close()
    for suffix in ("bin", "idx"):
        written = (tmp_path / f"megatron.{suffix}").read_bytes()
        assert written.hex() == (described if f"{suffix}_hex" in described else golden)[f"{suffix}_hex"]
        if part is None:
            assert written == (GOLDEN / f"megatron.{suffix}").read_bytes()
    reader = IndexedDatasetReader(tmp_path / "megatron")
    sequences = [ids for document in described["documents"] for ids in document]
    assert [reader[index].tolist() for index in range(len(reader))] == sequences
    assert reader.documents.tolist() == described["document_indices"]
    assert (None if reader.modes is None else reader.modes.tolist()) == described.get("sequence_modes")


def read_indexed_dataset(base):
    """Read an indexed dataset by the description of the format alone, without Smalti's code: lists of ids by document."""
    index, ids = Path(f"{base}.idx").read_bytes(), Path(f"{base}.bin").read_bytes()
    assert index[:9] == b"MMIDIDX\x00\x00"
    assert struct.unpack_from("<Q", index, 9) == (1,)
    letter = {1: "B", 2: "b", 3: "h", 4: "i", 5: "q", 8: "H"}[index[17]]
    sequences, documents = struct.unpack_from("<QQ", index, 18)
    lengths = struct.unpack_from(f"<{sequences}i", index, 34)
    pointers = struct.unpack_from(f"<{sequences}q", index, 34 + 4 * sequences)
    borders = struct.unpack_from(f"<{documents}q", index, 34 + 12 * sequences)
    assert len(index) == 34 + 12 * sequences + 8 * documents
    assert (borders[0], borders[-1]) == (0, sequences)
    read = [list(struct.unpack_from(f"<{n}{letter}", ids, at)) for n, at in zip(lengths, pointers, strict=True)]
    return [read[start:stop] for start, stop in pairwise(borders)]


def test_an_independent_reader_reads_megatron_files(tmp_path):
    rows = [*make_rows()]
    write(tmp_path / "a", make_info("megatron"), rows)
    assert read_indexed_dataset(tmp_path / "a") == [[row.arrays["ids"].ravel().tolist()] for row in rows]
    golden = json.loads((GOLDEN / "megatron.json").read_text())["content"]["documents"]
    assert read_indexed_dataset(GOLDEN / "megatron") == golden


def test_megatron_chooses_types_as_its_scripts_and_refuses_what_does_not_fit(tmp_path):
    optimal = json.loads((GOLDEN / "megatron.json").read_text())["optimal_dtype"]
    assert {size: sequence_type(int(size)) for size in optimal} == optimal
    writer = IndexedDatasetWriter(tmp_path / "a", "uint16")
    with pytest.raises(SmaltiError, match="is 70000, outside of the range of uint16"):
        writer.add_document([np.array([1, 70_000])])
    for info in (make_info("megatron", kind="latents"), make_info("megatron", packed_bits=9)):
        with pytest.raises(SmaltiError, match="choose another --format"):
            find_format("megatron").check(info)


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("npy", ".ids.npy"), ("npy", ".jsonl"), ("webdataset", ".tar"), ("parquet", ".parquet"), ("megatron", ".bin"),
     ("megatron", ".idx")],
)  # fmt: skip
def test_truncated_shards_are_refused_in_one_sentence(tmp_path, name, suffix):
    info = make_info(name)
    write(tmp_path / "a", info, [*make_rows(40)])
    file = tmp_path / f"a{suffix}"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(SmaltiError, match="is damaged") as caught:
        find_format(name).read(tmp_path / "a", info).read(39)
    assert "\n" not in str(caught.value)


def test_shards_that_carry_something_else_are_refused(tmp_path):
    for name in ("webdataset", "parquet"):
        write(tmp_path / name, make_info(name), [*make_rows()])
        with pytest.raises(SmaltiError, match="its fingerprint differs"):
            find_format(name).read(tmp_path / name, make_info(name, fingerprint="0" * 64))


def test_an_unknown_format_names_the_known_ones():
    with pytest.raises(SmaltiError, match="choose webdataset, parquet, megatron, npy"):
        find_format("hdf5")
