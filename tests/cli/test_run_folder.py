"""Finding the run of a checkpoint, and keeping the settings of a run."""

import pytest

from smalti.cli.run_folder import find_run, write_config


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Return the folder of a run with a checkpoint and the link to it; the current directory is its parent."""
    folder = tmp_path / "runs" / "version_0"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text("seed_everything: 0\n")
    (folder / "checkpoints" / "step=3.ckpt").touch()
    (folder / "checkpoints" / "last.ckpt").symlink_to("step=3.ckpt")
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_run_is_found_by_absolute_and_relative_paths(run, tmp_path, monkeypatch):
    for name in ("last.ckpt", "step=3.ckpt"):
        assert find_run(run / "checkpoints" / name) == find_run(f"runs/version_0/checkpoints/{name}")
    assert str(find_run(run / "checkpoints" / "last.ckpt")) == "runs/version_0"
    monkeypatch.chdir(run / "checkpoints")
    assert find_run("last.ckpt") == run


def test_a_checkpoint_outside_of_a_run_has_no_run(run, tmp_path):
    (tmp_path / "theirs.ckpt").touch()
    assert find_run(tmp_path / "theirs.ckpt") is None
    assert find_run(run / "checkpoints" / "missing.ckpt") is None
    assert find_run(None) is None
    (run / "config.yaml").unlink()
    assert find_run(run / "checkpoints" / "last.ckpt") is None


def test_earlier_settings_are_kept_if_they_differ(tmp_path):
    folder = tmp_path / "new" / "run"
    write_config(folder, "a: 1\n", 0)
    write_config(folder, "a: 1\n", 5)
    assert [file.name for file in folder.iterdir()] == ["config.yaml"]
    write_config(folder, "a: 2\n", 5)
    write_config(folder, "a: 3\n", 5)
    texts = {file.name: file.read_text() for file in folder.iterdir()}
    assert texts == {
        "config.yaml": "a: 3\n",
        "config_until_step_5.yaml": "a: 1\n",
        "config_until_step_5_2.yaml": "a: 2\n",
    }
