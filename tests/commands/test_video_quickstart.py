"""A video tokenizer from recipe to reconstructed video with the real commands: a few steps on real clips."""

import json

import pytest

from smalti.__main__ import main

SHORT = [
    *("--trainer.max_steps", "3", "--trainer.val_check_interval", "3", "--checkpoint.every_n_train_steps", "3"),
    *("--data.init_args.videos.init_args.repeats", "8", "--data.init_args.videos.init_args.batch_size", "1"),
    *("--data.init_args.images.init_args.batch_size", "2", "--trainer.enable_progress_bar", "false"),
    *("--start.samples", "4"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "branch"), [("onevae/quickstart.yaml", ["--as", "continuous"]), ("ltx/quickstart.yaml", [])]
)
def test_train_evaluate_and_reconstruct_a_video(recipe, branch, tmp_path, monkeypatch):
    import av

    monkeypatch.chdir(tmp_path)
    assert main(["fit", "-c", recipe, *SHORT]) == 0
    reconstructions = tmp_path / "runs" / "version_0" / "reconstructions"
    assert {file.suffix for file in reconstructions.iterdir()} == {".png", ".mp4"}
    checkpoint = str(tmp_path / "runs" / "version_0" / "checkpoints" / "last.ckpt")
    assert main(["export", checkpoint, "-o", "tokenizer"]) == 0
    video = str(next(reconstructions.glob("*.mp4")))
    assert main(["reconstruct", video, "-o", "reconstructed.mp4", "--tokenizer", "tokenizer", "--device", "cpu"]) == 0
    with av.open(video) as before, av.open("reconstructed.mp4") as after:
        assert after.streams.video[0].codec.name == "h264"
        assert after.streams.video[0].average_rate == before.streams.video[0].average_rate
        assert after.streams.video[0].frames == before.streams.video[0].frames
    evaluate = ["evaluate", "--data", "clips:validation", "--protocol", "clip9x32@25", "--tokenizer", "tokenizer"]
    evaluate += ["--rivals", "none"]
    assert main([*evaluate, "-o", "report", "--workers", "0", "--device", "cpu", *branch]) == 0
    report = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert {"psnr", "psnr_clip", "ssim"} <= report["metrics"].keys()
    assert (tmp_path / "report" / "examples.mp4").is_file()
