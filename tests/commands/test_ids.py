"""`smalti ids`: token files to ids of a language model and back, exactly; bad input ends with exit code 2."""

import numpy as np
import pytest
import torch

from smalti.__main__ import main
from smalti.export.token_files import load_tokens
from smalti.images import save_image
from smalti.pixels import pixels_to_uint8
from smalti.tokenizers import cosmos, wetok
from smalti.tokenizers.bottlenecks import FSQ, GQ
from smalti.tokenizers.checkpoints import save
from smalti.video import write_video


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ids")
    for seed, name in enumerate(("tokenizer", "other")):
        torch.manual_seed(seed)
        save(wetok(GQ(2, 4), stride=8, channels=8, blocks=1, groups=None), folder / name)
    save_image(torch.rand(3, 30, 41) * 2 - 1, folder / "photo.png")
    tokenizer = ("--tokenizer", str(folder / "tokenizer"))
    assert main(["tokenize", str(folder / "photo.png"), "--out", str(folder / "photo.safetensors"), *tokenizer]) == 0
    for preset in ("flat", "delayed", "bits"):
        out = ("--out", str(folder / f"{preset}.json"))
        assert main(["vocabulary", str(folder / "tokenizer"), "--preset", preset, *out]) == 0
    return folder


@pytest.mark.parametrize(("preset", "shape"), [("flat", (50,)), ("delayed", (2, 26)), ("bits", (24, 1))])
def test_a_token_file_becomes_ids_and_the_same_token_file_again(folder, tmp_path, preset, shape):
    vocabulary = ("--vocabulary", str(folder / f"{preset}.json"))
    tokenizer = ("--tokenizer", str(folder / "tokenizer"))
    ids, back = tmp_path / "photo.npy", tmp_path / "photo.safetensors"
    assert main(["ids", str(folder / "photo.safetensors"), *vocabulary, "--out", str(ids)]) == 0
    assert np.load(ids).shape == shape
    assert main(["ids", str(ids), *vocabulary, *tokenizer, "--size", "30x41", "--out", str(back)]) == 0
    first, second = load_tokens(folder / "photo.safetensors"), load_tokens(back)
    assert torch.equal(first.tokens.ids, second.tokens.ids)
    assert first.tokens.layout() == second.tokens.layout()
    assert first.fingerprint == second.fingerprint
    assert main(["detokenize", str(back), *tokenizer, "--out", str(tmp_path / "decoded.png")]) == 0


def test_a_clip_becomes_the_sequence_of_cosmos_and_the_same_clip_again(folder, tmp_path, photo):
    torch.manual_seed(0)
    video = tmp_path / "video"
    save(cosmos(FSQ([8, 8, 8, 5, 5, 5]), (8, 16, 16), z_channels=8, channels=8, multipliers=[1, 2, 2], blocks=1), video)
    frames = [photo[0].roll(4 * index, 2) for index in range(17)]  # the photo moves
    write_video(tmp_path / "clip.mp4", pixels_to_uint8(torch.stack(frames)).unbind(0), 25)
    tokens, ids, back, vocabulary = (
        str(tmp_path / name) for name in ("a.safetensors", "a.npy", "b.safetensors", "v.json")
    )
    with_video = ("--tokenizer", str(video))
    assert main(["tokenize", str(tmp_path / "clip.mp4"), "--out", tokens, *with_video]) == 0
    options = ("--preset", "cosmos-ar", "--grid", "3x4x6", "--out", vocabulary)
    assert main(["vocabulary", str(video), *options]) == 0
    assert main(["ids", tokens, "--vocabulary", vocabulary, "--out", ids]) == 0
    sequence, first = np.load(ids), load_tokens(tmp_path / "a.safetensors")
    assert sequence.tolist() == [64_000, *first.tokens.ids.flatten().tolist(), 64_001]
    clip = ("--vocabulary", vocabulary, *with_video, "--rate", "25")
    assert main(["ids", ids, *clip, "--out", back]) == 0
    second = load_tokens(tmp_path / "b.safetensors")
    assert torch.equal(first.tokens.ids, second.tokens.ids)
    assert (first.tokens.layout(), first.rate) == (second.tokens.layout(), second.rate)
    assert main(["detokenize", back, "--out", str(tmp_path / "b.mp4"), *with_video]) == 0


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda ids: ids[:-1], ["--size", "30x41"], "cut or damaged"),
        (lambda ids: ids + 40, ["--size", "30x41"], "must|grammar|damaged"),
        (lambda ids: np.where(ids == ids[3], 99, ids), ["--size", "30x41"], "has the id 99"),
        (lambda ids: ids.astype(float), ["--size", "30x41"], "integers"),
        (lambda ids: ids, [], "--size"),
        (lambda ids: ids, ["--size", "64x64"], "needs 130"),
        (lambda ids: ids, ["--size", "64"], "--size is '64'"),
        (lambda ids: ids, ["--size", "30x41", "--rate", "25"], "leave out --rate"),
        (lambda ids: ids, ["--size", "30x41", "--tokenizer", "OTHER"], "other weights"),
        (lambda ids: None, ["--size", "30x41"], "NumPy file"),
    ],
)
def test_bad_ids_are_refused_in_one_sentence(folder, tmp_path, capsys, change, options, message):
    vocabulary = ["--vocabulary", str(folder / "flat.json")]
    file = tmp_path / "a.npy"
    assert main(["ids", str(folder / "photo.safetensors"), *vocabulary, "--out", str(file)]) == 0
    changed = change(np.load(file))
    if changed is None:
        file.write_bytes(b"nothing")
    else:
        np.save(file, changed)
    words = [str(folder / "other") if word == "OTHER" else word for word in options]
    tokenizer = [] if "--tokenizer" in words else ["--tokenizer", str(folder / "tokenizer")]
    capsys.readouterr()
    assert main(["ids", str(file), *vocabulary, *tokenizer, *words, "--out", str(tmp_path / "b.safetensors")]) == 2
    error = capsys.readouterr().err
    assert any(part in error for part in message.split("|"))
    assert error.count("\n") == 1
    assert not (tmp_path / "b.safetensors").exists()


def test_files_of_other_kinds_are_refused(folder, tmp_path, capsys):
    vocabulary = ["--vocabulary", str(folder / "flat.json")]
    photo = str(folder / "photo.safetensors")
    for words, message in (
        ([photo, *vocabulary, "--rate", "25", "--out", str(tmp_path / "a.npy")], "leave out --size and --rate"),
        ([photo, *vocabulary, "--start", "1", "--out", str(tmp_path / "a.npy")], "There is no option --start"),
        ([photo, *vocabulary, "--out", str(tmp_path / "a.json")], "convert a token file"),
        ([str(folder / "photo.png"), *vocabulary, "--out", str(tmp_path / "a.npy")], "convert a token file"),
        ([photo, "--vocabulary", str(folder / "none.json"), "--out", str(tmp_path / "a.npy")], "no vocabulary"),
        ([photo, "--vocabulary", photo, "--out", str(tmp_path / "a.npy")], "no JSON file"),
    ):
        assert main(["ids", *words]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
