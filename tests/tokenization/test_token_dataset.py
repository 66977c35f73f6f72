"""Reading token datasets: access, slices, arrays, pixels, views, and the errors for folders that are not in order."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import smalti
from smalti.errors import SmaltiError
from smalti.tokenization import TokenDataset
from smalti.tokenization.formats import FORMATS

NUM_PHOTOS = 23


@pytest.mark.parametrize("name", FORMATS)
def test_rows_slices_iteration_and_arrays_agree(work, bulk, name):
    assert bulk(format_=name) == 0
    dataset = smalti.TokenDataset("tokens")
    rows = [*dataset]
    assert len(dataset) == len(rows) == NUM_PHOTOS
    for index in (22, 0, 10, 9, -1):
        assert torch.equal(dataset[index].ids, rows[index].ids)
    assert [row.key for row in dataset[8:13]] == [f"{index:03d}.png" for index in range(8, 13)]
    assert [row.key for row in dataset[::-10]] == ["022.png", "012.png", "002.png"]
    array = dataset.to_array()
    assert array.shape == (NUM_PHOTOS, 16, 2)
    assert (array == torch.stack([row.ids for row in rows]).numpy()).all()
    assert (smalti.load_tokens("tokens") == array).all()
    with pytest.raises(IndexError):
        dataset[NUM_PHOTOS]


@pytest.mark.parametrize("name", FORMATS)
def test_a_row_decodes_to_pixels(work, bulk, name):
    assert bulk(format_=name) == 0
    dataset, tokenizer = TokenDataset("tokens"), smalti.load("tokenizer")
    pixels = dataset.decode(5, tokenizer)
    assert pixels.shape == (1, 3, 32, 32)
    assert torch.equal(pixels, tokenizer.detokenize(dataset.tokens(5)))
    with pytest.raises(SmaltiError, match="has ids, and no latents"):
        dataset.latents(5)


def test_loaders_with_workers_read_it(work, bulk):
    assert bulk(format_="webdataset") == 0
    dataset = TokenDataset("tokens")
    dataset[3]  # a file is open
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[3].ids, dataset[3].ids)
    loader = DataLoader(
        dataset, batch_size=5, num_workers=1, collate_fn=lambda rows: torch.stack([r.ids for r in rows])
    )
    assert (torch.cat([*loader]).numpy() == dataset.to_array()).all()


@pytest.mark.parametrize("name", FORMATS)
def test_hugging_face_views_have_all_columns(work, bulk, name):
    pytest.importorskip("datasets")
    assert bulk(format_=name) == 0
    dataset = TokenDataset("tokens")
    view = dataset.to_hugging_face()
    assert len(view) == NUM_PHOTOS
    assert view[7]["key"] == "007.png"
    assert view[7]["txt"] == "Photo 7, für alle"
    assert torch.equal(view[7]["ids"], dataset[7].ids)
    assert [row["key"] for row in view.select([3, 1])] == ["003.png", "001.png"]
    assert view[2:4]["version"] == [0, 0]


def test_folders_of_several_datasets_are_refused(work, bulk):
    assert bulk("a") == bulk("b", tokenizer="other") == bulk("c", data="shard-0.tar") == 0
    shutil.copytree(work / "a", work / "mixed")
    for file in (work / "b").glob("tokens-000001*"):
        shutil.copy(file, work / "mixed")
    with pytest.raises(SmaltiError, match=r"tokens-000001.json was made by another tokenizer than the others"):
        TokenDataset("mixed")
    for file in (work / "a").glob("tokens-000001*"):
        shutil.copy(file, work / "mixed")
    assert len(TokenDataset("mixed")) == NUM_PHOTOS
    for file in (work / "c").glob("shard-0*"):
        shutil.copy(file, work / "mixed")
    with pytest.raises(SmaltiError, match=r"shard-0.json is not of this dataset"):
        TokenDataset("mixed")


def test_damaged_folders_are_refused_in_one_sentence(work, bulk):
    assert bulk() == 0
    for name, content, expected in (
        ("tokens-000001.ids.npy", b"", "is missing or truncated"),
        ("tokens-000001.json", b"{", "cannot be read"),
        ("tokens-000001.json", b"[]", "does not describe a token dataset"),
        ("token_dataset.json", json.dumps({"format_name": "smalti-token-dataset", "format_version": 9}).encode(),
         "has format version 9"),
    ):  # fmt: skip
        folder = work / "damaged"
        shutil.copytree(work / "tokens", folder)
        (folder / name).write_bytes(content)
        with pytest.raises(SmaltiError, match=expected) as caught:
            TokenDataset(folder)
        assert "\n" not in str(caught.value)
        shutil.rmtree(folder)
    with pytest.raises(SmaltiError, match="photos is no token dataset"):
        TokenDataset("photos")


def test_an_unfinished_dataset_has_the_rows_that_are_done(work, bulk):
    assert bulk() == 0
    (work / "tokens" / "tokens-000001.json").unlink()
    dataset = TokenDataset("tokens")
    assert [row.key for row in dataset][9:11] == ["009.png", "020.png"]
    assert dataset.unfinished == ["tokens-000001"]
    assert bulk() == 0
    assert TokenDataset("tokens").unfinished == []


def test_rows_of_different_sizes_have_no_array(work, bulk):
    assert bulk(protocol="native", format_="webdataset") == 0
    with pytest.raises(SmaltiError, match="different numbers of positions"):
        TokenDataset("tokens").to_array()


def test_latents_of_bfloat16_become_an_array_of_float32(work, bulk):
    assert bulk("tokens", "--dtype", "bfloat16", tokenizer="continuous") == 0
    array = TokenDataset("tokens").to_array()
    assert array.dtype == np.float32
    assert array.shape == (NUM_PHOTOS, 16, 4)
