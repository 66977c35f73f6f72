"""`smalti tokenize-dataset` writes what the tokenizer gives for each sample, whatever the number of workers."""

import json
import shutil

import numpy as np
import pytest
import torch

import smalti
from smalti.__main__ import main
from smalti.data import EvaluationTransform, Folder
from smalti.export.vocabulary.manifest_file import load_vocabulary
from smalti.tokenization import TokenDataset
from smalti.tokenization.formats import FORMATS
from smalti.tokenization.formats.megatron import IndexedDatasetReader
from smalti.tokenizers import wetok
from smalti.tokenizers.bottlenecks import BSQ
from smalti.tokenizers.checkpoints import save

NUM_PHOTOS = 23


def expected_ids(folder="photos", tokenizer="tokenizer", size=32):
    loaded, source = smalti.load(tokenizer), Folder(folder)
    transform = EvaluationTransform(size, size)
    return [loaded.tokenize(transform(source[index])[None]).ids[0] for index in range(len(source))]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_has_the_ids_of_each_image_and_its_caption(work, bulk, name):
    assert bulk(format_=name) == 0
    dataset = TokenDataset("tokens")
    assert len(dataset) == NUM_PHOTOS
    for index, (sample, ids) in enumerate(zip(dataset, expected_ids(), strict=True)):
        assert sample.key == f"{index:03d}.png"
        assert torch.equal(sample.ids, ids)
        assert sample.columns == {"txt": f"Photo {index}, für alle"}
        assert sample.layout == smalti.load("tokenizer").layout((32, 32))


@pytest.mark.parametrize("data", ["photos", "shard-{0..2}.tar", "shard-0.tar"])
def test_bytes_do_not_depend_on_the_number_of_workers(work, bulk, data, content):
    for workers in ("0", "1", "3"):
        assert bulk(f"tokens{workers}", "--workers", workers, data=data) == 0
    assert content(work / "tokens0") == content(work / "tokens1") == content(work / "tokens3")


def test_a_shard_of_the_input_becomes_a_shard_of_the_output(work, bulk):
    assert bulk(data="shard-*.tar", format_="webdataset") == 0
    assert sorted(path.name for path in (work / "tokens").glob("*.tar")) == [f"shard-{i}.tar" for i in range(3)]
    dataset = TokenDataset("tokens")
    assert [marker.rows for marker in dataset.markers] == [9, 9, 5]
    assert [sample.key for sample in dataset] == [f"{index:03d}" for index in range(NUM_PHOTOS)]
    assert all(torch.equal(s.ids, ids) for s, ids in zip(dataset, expected_ids(), strict=True))


def test_packed_ids_take_fewer_bytes_and_return(work, bulk):
    assert bulk("packed", "--pack-bits") == bulk("plain") == 0
    packed, plain = TokenDataset("packed"), TokenDataset("plain")
    assert (packed.info.packed_bits, plain.info.dtype) == (9, "uint16")
    assert (packed.to_array() == plain.to_array()).all()
    assert np.load("packed/tokens-000000.ids.npy").itemsize * np.load("packed/tokens-000000.ids.npy")[0].size == 36
    assert np.load("plain/tokens-000000.ids.npy")[0].nbytes == 64


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_latents_have_mean_and_log_variance_in_the_named_type(work, bulk, dtype):
    options = ("--dtype", dtype, "--log-variance")
    assert bulk("latents", *options, tokenizer="continuous") == 0
    dataset, tokenizer = TokenDataset("latents"), smalti.load("continuous")
    pixels = EvaluationTransform(32, 32)(Folder("photos")[3])[None]
    code = tokenizer.encode(pixels).code
    sample = dataset[3]
    assert sample.mean.dtype == sample.log_variance.dtype == getattr(torch, dtype)
    assert torch.allclose(sample.mean.float(), code.z[0], atol=1e-5, rtol=1e-2 if dtype != "float32" else 1e-5)
    assert torch.allclose(sample.log_variance.float(), code.log_variance[0], atol=1e-5, rtol=1e-2)
    assert torch.allclose(dataset.decode(3, tokenizer), tokenizer(pixels)[0], atol=2e-2)


def test_normalized_latents_have_mean_0_and_standard_deviation_1_and_decode_alike(work, bulk):
    assert bulk("plain", "--log-variance", tokenizer="continuous") == 0
    assert bulk("normalized", "--log-variance", "--normalize", "plain", tokenizer="continuous") == 0
    plain, normalized = TokenDataset("plain"), TokenDataset("normalized")
    mean, std = plain.statistics()
    array = plain.to_array().reshape(-1, 4)
    assert np.allclose(mean, array.mean(0), atol=1e-5)
    assert np.allclose(std, array.std(0), rtol=1e-4)
    array = normalized.to_array().reshape(-1, 4)
    assert np.allclose(array.mean(0), 0, atol=1e-4)
    assert np.allclose(array.std(0), 1, atol=1e-4)
    assert np.allclose(normalized.statistics(), plain.statistics())
    tokenizer = smalti.load("continuous")
    assert torch.allclose(normalized.decode(0, tokenizer), plain.decode(0, tokenizer), atol=1e-4)
    log_variances = [d.latents(0).code.log_variance for d in (plain, normalized)]
    assert torch.allclose(*log_variances, atol=1e-4)


def test_several_versions_of_each_sample(work, bulk, content):
    options = ("--protocol", "square16", "--augmentations", "2")
    assert bulk("a", *options, "--seed", "5", format_="webdataset") == 0
    assert bulk("b", *options, "--seed", "5", "--workers", "2", format_="webdataset") == 0
    assert bulk("c", *options, "--seed", "6", format_="webdataset") == 0
    assert content(work / "a") == content(work / "b")
    a, c = TokenDataset("a"), TokenDataset("c")
    assert [(s.key, s.version) for s in a[:5]] == [("000.png", v) for v in range(4)] + [("001.png", 0)]
    assert [s.layout.size[0] for s in a[:4]] == [32, 16, 32, 32]
    assert len(a) == 4 * NUM_PHOTOS
    assert all(torch.equal(a[i].ids, c[i].ids) for i in (0, 1, 4, 5))
    assert not all(torch.equal(a[i].ids, c[i].ids) for i in (2, 3, 6, 7))
    assert a.info.preprocessing[3] == {"name": "square32", "resize": 32, "crop": 32, "interpolation": "bicubic",
                                       "antialias": True, "augmentation": 1, "seed": 5}  # fmt: skip


def test_sizes_may_differ_where_the_format_allows_it(work, bulk, error_message):
    assert "npy holds one shape: choose a --protocol" in error_message(bulk, "a", protocol="native")
    assert not list((work / "a").glob("tokens-*"))
    assert not list((work / "a").glob(".partial*"))
    for name in ("webdataset", "parquet", "megatron"):
        assert bulk(name, protocol="native", format_=name) == 0
        dataset = TokenDataset(name)
        assert dataset[7].layout.size == (40, 57)
        assert torch.equal(dataset[7].ids, expected_ids(size=None)[7])


def test_unreadable_samples_are_listed_with_their_keys(work, bulk, error_message, capsys, content):
    shutil.copytree(work / "photos", work / "some")
    (work / "some" / "004.png").write_bytes(b"no image")
    (work / "some" / "015.txt").write_bytes(b"\xff no UTF-8")
    assert bulk("a", "--max-bad", "0.1", data="some") == 0
    assert "2 could not be read" in capsys.readouterr().out
    dataset = TokenDataset("a")
    assert [key for key, _ in dataset.failures] == ["tokens-000000/004.png", "tokens-000001/015.png"]
    assert "is not text in UTF-8" in dataset.failures[1][1]
    assert len(dataset) == NUM_PHOTOS - 2
    assert "004.png" not in [sample.key for sample in dataset]
    message = error_message(bulk, "b", "--max-bad", "0.01", data="some")
    assert "1 of 23 samples of some could not be read" in message
    assert "004.png (unknown image format)" in message
    assert bulk("b", "--max-bad", "0.1", data="some") == 0  # continues
    assert content(work / "a") == content(work / "b")


def test_columns_can_be_chosen(work, bulk, error_message, photo_files, write_shard):
    assert bulk("a", "--columns", "none") == 0
    assert TokenDataset("a")[0].columns == {}
    files = {"a": photo_files(0) | {"json": b'{"x": 1}', "cls": b"7", "mask.png": b"", "emb": b"\xff"}}
    write_shard(work / "more.tar", files)
    assert bulk("b", data="more.tar", format_="parquet") == 0
    assert TokenDataset("b")[0].columns == {
        "txt": "Photo 0, für alle", "json": '{"x": 1}', "cls": "7", "emb": b"\xff",
    }  # fmt: skip
    assert bulk("c", "--columns", "cls", data="more.tar") == 0
    assert TokenDataset("c")[0].columns == {"cls": "7"}
    assert "'ids' has the name of something" in error_message(bulk, "d", "--columns", "ids", data="more.tar")


def test_a_truncated_input_shard_writes_nothing_and_is_repeated_when_it_is_complete(work, bulk, error_message, content):
    whole = (work / "shard-1.tar").read_bytes()
    (work / "shard-1.tar").unlink()
    (work / "shard-1.tar").write_bytes(whole[: len(whole) // 2])
    message = error_message(bulk, data="shard-{0..2}.tar", format_="webdataset")
    assert "1 of 3 shards of" in message
    assert "shard-1" in message
    assert sorted(path.name for path in (work / "tokens").glob("*.tar")) == ["shard-0.tar", "shard-2.tar"]
    assert not list((work / "tokens").glob(".partial*"))
    assert [name for name, _ in TokenDataset("tokens").failures] == ["shard-1"]
    (work / "shard-1.tar").write_bytes(whole)
    assert bulk(data="shard-{0..2}.tar", format_="webdataset") == 0
    assert bulk("unbroken", data="shard-{0..2}.tar", format_="webdataset") == 0
    assert content(work / "tokens") == content(work / "unbroken")


def test_a_video_gives_its_first_clip_or_all_of_them(work, bulk, content):
    from smalti.video import write_video

    (work / "videos").mkdir()
    frames = torch.randint(0, 256, (3, 24, 2, 2), dtype=torch.uint8).repeat_interleave(16, 2).repeat_interleave(16, 3)
    for name, length in (("a", 24), ("b", 11), ("short", 3)):
        write_video(work / "videos" / f"{name}.mp4", frames[:, :length].unbind(1), 25)
    video = {"data": "videos", "tokenizer": "video", "protocol": "clip5x32"}
    assert bulk("first", "--max-bad", "0.5", **video) == 0
    assert bulk("all", "--max-bad", "0.5", "--all-clips", **video) == 0
    assert bulk("workers", "--max-bad", "0.5", "--all-clips", "--workers", "2", **video) == 0
    assert content(work / "all") == content(work / "workers")
    first, every = TokenDataset("first"), TokenDataset("all")
    assert [s.key for s in first] == ["a.mp4@0.000", "b.mp4@0.000"]
    assert [s.key for s in every] == [f"a.mp4@{i * 0.2:.3f}" for i in range(4)] + ["b.mp4@0.000", "b.mp4@0.200"]
    assert "has 3 frames" in every.failures[0][1]
    assert torch.equal(every[4].ids, first[1].ids)
    assert (every[1].layout.frames, every[1].rate) == (5, 25)
    from smalti.data import VideoEvaluationTransform, VideoFolder, VideoSegment

    segment = VideoFolder("videos")[0]
    second = VideoSegment("a", segment.video, every[1].layout.frames / every[1].rate)
    cut = VideoEvaluationTransform(5, None, resize=32, crop=32)(second)
    assert torch.equal(every[1].ids, smalti.load("video").tokenize(cut.pixels[None]).ids[0])
    assert every.decode(1, smalti.load("video")).shape == (1, 3, 5, 32, 32)
    options = ("--max-bad", "0.5", "--protocol", "clip5x16", "--augmentations", "2")
    assert bulk("versions", *options, format_="webdataset", **video) == 0
    versions = TokenDataset("versions")[:4]
    assert [(s.key.partition("@")[0], s.version) for s in versions] == [("a.mp4", v) for v in range(4)]
    assert [s.layout.size for s in versions] == [(32, 32), (16, 16), (32, 32), (32, 32)]
    assert torch.equal(versions[0].ids, first[0].ids)
    assert not torch.equal(versions[2].ids, versions[3].ids)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("preset", ["flat", "emu3", "depth", "delayed"])
def test_ids_of_a_language_model_and_back(work, bulk, name, preset):
    options = ("--preset", preset, "--out", "vocabulary.json")
    assert main(["vocabulary", "single" if preset == "emu3" else "tokenizer", *options]) == 0
    tokenizer = "single" if preset == "emu3" else "tokenizer"
    assert bulk("tokens", "--vocabulary", "vocabulary.json", format_=name, tokenizer=tokenizer) == 0
    dataset, vocabulary = TokenDataset("tokens"), load_vocabulary(work / "vocabulary.json")
    for index, ids in enumerate(expected_ids(tokenizer=tokenizer)):
        assert torch.equal(dataset.tokens(index).ids[0], ids)
        sequence = vocabulary.encode(ids.reshape(4, 4, -1).numpy())
        assert (dataset[index].input_ids.numpy().ravel() == sequence.ravel()).all()
    if name == "megatron":
        reader = IndexedDatasetReader(work / "tokens" / "tokens-000000")
        assert reader[0].dtype == ("uint16" if vocabulary.rows < 65_500 else "int32")
        assert (
            reader[0] == vocabulary.encode(expected_ids(tokenizer=tokenizer)[0].reshape(4, 4, -1).numpy()).ravel()
        ).all()


def test_a_vocabulary_of_another_tokenizer_is_refused(work, bulk, error_message):
    assert main(["vocabulary", "other", "--preset", "flat", "--out", "vocabulary.json"]) == 0
    assert "of another tokenizer" in error_message(bulk, "x", "--vocabulary", "vocabulary.json")
    assert main(["vocabulary", "tokenizer", "--preset", "flat", "--grid", "2x2", "--out", "small.json"]) == 0
    assert "takes the grid (h, w) = (2, 2) only, not (4, 4)" in error_message(bulk, "x", "--vocabulary", "small.json")
    content = json.loads((work / "small.json").read_text()) | {"tokenizer": None}
    (work / "codes.json").write_text(json.dumps(content | {"strides": [0], "codes": content["codes"] | {"sizes": [9]}}))
    assert "is for 1 codebook of 9 codes" in error_message(bulk, "x", "--vocabulary", "codes.json")
    assert not (work / "x").exists()


def test_codes_of_128_bits_are_exact_in_every_file(work, bulk):
    torch.manual_seed(0)
    save(wetok(BSQ(128, token_bits=16), stride=8, channels=8, blocks=1, groups=None), work / "wide")
    options = ("--tokenizer", "wide", "--protocol", "square32")
    assert main(["tokenize", "photos", "--out", "photos.safetensors", "--pack", *options]) == 0
    expected = smalti.load_tokens("photos.safetensors")
    assert expected.shape == (NUM_PHOTOS, 16, 8)
    assert main(["vocabulary", "wide", "--preset", "bits", "--out", "bits.json"]) == 0
    vocabulary = load_vocabulary(work / "bits.json")
    assert (vocabulary.codes.bits, vocabulary.names, vocabulary.rows) == (128, None, 256)
    assert bulk("packed", "--pack-bits", tokenizer="wide") == 0
    assert np.load("packed/tokens-000000.ids.npy").shape == (10, 16 * 128 // 8)
    assert (smalti.load_tokens("packed") == expected).all()
    for name in FORMATS:
        assert bulk(name, "--vocabulary", "bits.json", tokenizer="wide", format_=name) == 0
        dataset = TokenDataset(name)
        assert all((dataset.tokens(i).ids[0].numpy() == ids).all() for i, ids in enumerate(expected))


def test_a_second_run_does_nothing_and_other_settings_are_refused(work, bulk, error_message, capsys, content):
    assert bulk() == 0
    before = content(work / "tokens")
    assert bulk() == 0
    assert "of which 3 were done before" in capsys.readouterr().out
    for options, change in (
        ({"tokenizer": "other"}, "another fingerprint"),
        ({"protocol": "square16"}, "another preprocessing"),
        ({"format_": "megatron"}, "another format"),
        ({"data": "shard-0.tar"}, "other data"),
    ):
        assert change in error_message(bulk, **options)
    assert content(work / "tokens") == before


def test_bad_options_fail_in_one_sentence_and_write_nothing(work, bulk, error_message):
    (work / "full").mkdir()
    (work / "full" / "mine.txt").write_text("mine")
    (work / "mixed").mkdir()
    (work / "mixed" / "a.png").symlink_to(work / "photos" / "000.png")
    (work / "mixed" / "a.mp4").write_bytes(b"")
    for arguments, options, expected in (
        (("x",), {"format_": "hdf5"}, "There is no format 'hdf5'"),
        (("x",), {"protocol": "square"}, "The protocol 'square' does not exist"),
        (("x",), {"protocol": "clip17x128@24"}, "is for videos"),
        (("x",), {"data": "nowhere"}, "is not a data source"),
        (("x",), {"data": "mixed"}, "choose one kind"),
        (("x",), {"tokenizer": "nowhere"}, "nowhere"),
        (("x", "--protocol", "clip17"), {}, "for images and for clips"),
        (("x", "--dtype", "float16"), {}, "--dtype is for continuous latents"),
        (("x", "--log-variance"), {}, "--log-variance is for continuous latents"),
        (("x", "--dtype", "int8"), {"tokenizer": "continuous"}, "There is no type 'int8'"),
        (("x", "--pack-bits"), {"tokenizer": "continuous"}, "--pack-bits is for ids"),
        (("x", "--normalize", "tokenizer"), {"tokenizer": "continuous"}, "were not measured in training"),
        (("x", "--normalize", "photos"), {"tokenizer": "continuous"}, "photos is no token dataset"),
        (("x",), {"tokenizer": "continuous", "format_": "megatron"}, "ids of a fixed type, not latents"),
        (("x", "--all-clips"), {}, "leave out --all-clips"),
        (("x", "--augmentations", "1"), {"protocol": "native", "format_": "webdataset"}, "Augmentations need a size"),
        (("full",), {}, "is not empty and has no token dataset"),
        (("full/mine.txt",), {}, "is not a folder"),
    ):
        assert expected in error_message(bulk, *arguments, **options), (arguments, options)
    assert not (work / "x").exists()
    assert [path.name for path in (work / "full").iterdir()] == ["mine.txt"]


def test_each_shard_carries_tokenizer_preprocessing_types_and_versions(work, bulk):
    assert bulk() == 0
    carried = json.loads((work / "tokens" / "tokens-000001.json").read_text())
    assert carried["fingerprint"] == json.loads((work / "tokenizer" / "config.json").read_text())["sha256"]
    assert carried["preprocessing"][0]["name"] == "square32"
    assert (carried["dtype"], carried["smalti"], carried["torch"]) == ("uint16", smalti.__version__, torch.__version__)
    assert (
        carried["shard"]["files"]["tokens-000001.ids.npy"][0] == (work / "tokens/tokens-000001.ids.npy").stat().st_size
    )


def test_progress_has_samples_per_second_and_the_time_left(work, bulk, capsys):
    assert bulk() == 0
    line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("Tokenizing: "))
    assert "/23 samples, " in line
    assert " samples/s, " in line
    assert line.endswith(" left")


def test_help_names_the_options(capsys):
    with pytest.raises(SystemExit):
        main(["tokenize-dataset", "--help"])
    assert "--samples-per-shard" in capsys.readouterr().out
