"""`smalti reduce` and `smalti evaluate --reduce`: real commands on photos."""

import json

import pytest
import torch
from PIL import Image

from smalti.__main__ import main
from smalti.export.reduced_files import load_reduced
from smalti.reducers import TopK, parse_reducer
from smalti.tokenizers import wetok
from smalti.tokenizers.bottlenecks import FSQ, KL
from smalti.tokenizers.checkpoints import load, save
from smalti.tokenizers.configurable import from_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from skimage import data

    path = tmp_path_factory.mktemp("reduce")
    torch.manual_seed(0)
    save(wetok(KL(4), stride=8, channels=4, blocks=1, groups=None), path / "kl")
    save(wetok(FSQ([8, 8], 2), stride=8, channels=4, blocks=1, groups=None), path / "fsq")
    (path / "photos").mkdir()
    for name in ("coffee", "cat"):
        Image.fromarray(getattr(data, name)()).resize((96, 72)).save(path / "photos" / f"{name}.png")
    return path


def test_a_file_has_tokens_and_where_they_came_from(folder, tmp_path, capsys):
    out = tmp_path / "a.safetensors"
    photo = folder / "photos/cat.png"
    arguments = ["--tokenizer", str(folder / "kl"), "--reduce", "topk:keep=20", "--saliency", "error"]
    assert main(["reduce", str(photo), "--out", str(out), *arguments]) == 0
    assert "20 tokens of 4 channels for 108 positions" in capsys.readouterr().out
    content = load_reduced(out)
    import smalti

    tokenizer = load(folder / "kl")
    latents = tokenizer.encode(smalti.load_image(photo))
    (reduced,) = content.reduced
    assert content.layout == latents.layout()
    assert reduced.lengths.tolist() == [20]
    torch.testing.assert_close(reduced.tokens[0], latents.z[0, reduced.indices[0]])
    reducer = from_config(content.reducer)
    assert isinstance(reducer, TopK)
    assert reducer.expand(reduced, (9, 12)).shape == latents.z.shape


def test_a_folder_with_a_discrete_tokenizer(folder, tmp_path):
    arguments = ["--tokenizer", str(folder / "fsq"), "--reduce", "prumerge:ratio=0.25", "--saliency", "surprise"]
    assert main(["reduce", str(folder / "photos"), "--out", str(tmp_path / "out"), *arguments]) == 0
    for name in ("coffee", "cat"):
        (reduced,) = load_reduced(tmp_path / "out" / f"{name}.safetensors").reduced
        assert reduced.lengths.tolist() == [28]
        assert int(reduced.assignment.min()) >= 0


def test_the_report_has_all_reducers_and_fewer_tokens_lose_more(folder, tmp_path, capsys):
    out = tmp_path / "report"
    arguments = [
        "evaluate", "--tokenizer", str(folder / "kl"), "--data", str(folder / "photos"), "--protocol", "square64",
        "--workers", "0", "--reduce", "m3", "--reduce", "topk:keep=0.25", "--reduce", "fold:window=2", "--pictures", "1",
        "--out", str(out),
    ]  # fmt: skip
    assert main(arguments) == 0
    content = json.loads((out / "metrics.json").read_text())
    results = {row["reducer"]: row for row in content["results"]}
    assert list(results) == [
        "all tokens", "m3:scale=16", "m3:scale=4", "m3:scale=1", "topk:keep=0.25", "fold:window=2"
    ]  # fmt: skip
    assert [row["tokens"] for row in results.values()] == [64, 16, 4, 1, 16, 16]
    assert results["fold:window=2"]["psnr"] == results["all tokens"]["psnr"]
    page = (out / "reducers.html").read_text()
    assert page.count("<svg") == 3
    assert page.count("<figure>") == 6
    assert "m3:scale=4: 4 tokens" in page
    assert "m3:scale=16" in capsys.readouterr().out
    assert main(arguments) == 2
    assert "already exists" in capsys.readouterr().err
    assert main([*arguments, "--readiness", "--overwrite"]) == 2
    assert "leave them out with --reduce" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--reduce", "m2"], "no reducer 'm2'"),
        (["--reduce", "m3"], "needs the option 'scale'"),
        (["--reduce", "m3:scale=7"], "no scale of 7 tokens"),
        (["--reduce", "m3:size=7"], "no option 'size'"),
        (["--reduce", "topk:0.5"], "NAME:OPTION=VALUE"),
        (["--reduce", "vqtoken:clusters=4000"], "choose fewer clusters"),
        (["--reduce", "topk", "--saliency", "surprise"], "continuous and has no ids"),
        ([], "not trained with a reducer"),
    ],
)
def test_bad_options_are_one_sentence(folder, tmp_path, capsys, options, message):
    photo, out = str(folder / "photos/cat.png"), str(tmp_path / "a.safetensors")
    assert main(["reduce", photo, "--out", out, "--tokenizer", str(folder / "kl"), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_is_an_error(folder, tmp_path):
    from smalti.errors import SmaltiError

    (tmp_path / "a.safetensors").write_bytes(b"no")
    with pytest.raises(SmaltiError, match="is damaged"):
        load_reduced(tmp_path / "a.safetensors")
    with pytest.raises(SmaltiError, match="There is no file"):
        load_reduced(tmp_path / "b.safetensors")
    with pytest.raises(SmaltiError, match="no reduced latents"):
        load_reduced(folder / "kl" / "model.safetensors")


def test_every_value_of_an_option_is_read():
    assert parse_reducer("langdc:shape=[4,6]").shape == (4, 6)
    assert parse_reducer("prumerge:ratio=0.25,neighbors=7").neighbors == 7
