"""Atomic writing: a file that could not be written completely never replaces the old one."""

import pytest

from smalti.files import atomic_write


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
