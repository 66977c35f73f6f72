"""Atomic writing: a file that could not be written completely never replaces the old one."""

import os

import pytest

from smalti.files import atomic_write, atomic_write_folder


def test_a_failed_write_keeps_the_old_file(tmp_path):
    def write_and_fail():
        with atomic_write(file) as partial:
            partial.write_text("seco")
            raise ValueError("interrupted")

    file = tmp_path / "missing" / "image.png"
    with atomic_write(file) as partial:
        assert partial.suffix == ".png"
        partial.write_text("first")
    with pytest.raises(ValueError, match="interrupted"):
        write_and_fail()
    assert file.read_text() == "first"
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_permissions_follow_the_umask_and_not_the_writer(umask, mode, tmp_path):
    def write_private(path):
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))  # like the writer of safetensors

    before = os.umask(umask)
    try:
        with atomic_write(tmp_path / "tokens") as partial:
            write_private(partial)
        with atomic_write_folder(tmp_path / "export", ["weights", "config"]) as staged:
            write_private(staged / "weights")
            (staged / "config").write_text("{}")
    finally:
        os.umask(before)
    files = [tmp_path / "tokens", tmp_path / "export" / "weights", tmp_path / "export" / "config"]
    assert [file.stat().st_mode & 0o777 for file in files] == [mode] * 3
    assert len(list(tmp_path.rglob("*"))) == 4
