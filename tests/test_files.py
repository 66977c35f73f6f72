"""A file is written whole or not at all."""

import pytest

from smalti.files import atomic_write


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    file = tmp_path / "deep" / "picture.png"
    with atomic_write(file) as partial:
        assert partial.suffix == ".png"
        partial.write_text("first")
    with pytest.raises(ValueError, match="half"):
        fail(file)
    assert file.read_text() == "first"
    assert list(file.parent.iterdir()) == [file]


def fail(file):
    with atomic_write(file) as partial:
        partial.write_text("seco")
        raise ValueError("half way")
