"""Folders of images."""

import pytest

from smalti.data import Folder
from smalti.errors import SmaltiError


def test_a_folder_is_listed_in_order_with_its_subfolders(make_folder):
    root = make_folder(7)
    (root / "b.PNG").write_bytes((root / "0" / "000.jpg").read_bytes())
    (root / "._b.png").write_bytes(b"resource fork")
    (root / ".cache").mkdir()
    (root / ".cache" / "a.jpg").write_bytes(b"")
    (root / "notes.txt").write_text("x")
    (root / "1" / "loop").symlink_to(root, target_is_directory=True)
    (root.parent / "elsewhere").mkdir()
    (root.parent / "elsewhere" / "linked.jpg").write_bytes((root / "0" / "000.jpg").read_bytes())
    (root / "z").symlink_to(root.parent / "elsewhere", target_is_directory=True)
    folder = Folder(str(root))
    names = [folder.name(index) for index in range(len(folder))]
    assert names == [
        "0/000.jpg", "0/003.jpg", "0/006.jpg", "1/001.jpg", "1/004.jpg", "2/002.jpg", "2/005.jpg", "b.PNG", "z/linked.jpg"
    ]  # fmt: skip
    assert folder[7].tobytes() == folder[0].tobytes() == folder[8].tobytes() != folder[1].tobytes()


def test_a_path_that_is_not_a_folder_of_images_raises_an_error(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("x")
    for path, message in {
        tmp_path / "missing": "The folder .*missing does not exist",
        tmp_path / "text" / "a.txt": "a.txt is a file",
        tmp_path / "empty": "empty contains no images",
        tmp_path / "text": "text contains no images",
    }.items():
        with pytest.raises(SmaltiError, match=message) as caught:
            Folder(path)
        assert "\n" not in str(caught.value)
