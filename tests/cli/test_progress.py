"""Progress of commands: plain lines outside a terminal, at most one per interval."""

from smalti.cli.progress import ProgressDisplay


def test_lines_show_all_tasks_and_the_time_left(capsys):
    long = "Skipped: [b].mp4" + " long" * 30
    with ProgressDisplay(seconds=0) as progress, progress.task("Tokenizing", 3, "files") as files:
        files(1)
        with progress.task("[a].mp4", None, "frames") as frames:
            frames(7)
        progress.message(long)
        files(3)
    assert capsys.readouterr().err.splitlines() == [
        "Tokenizing: 1/3 files, 0:00:00 left",
        "Tokenizing: 1/3 files, 0:00:00 left; [a].mp4: 7 frames",
        long,
        "Tokenizing: 3/3 files, 0:00:00 left",
    ]


def test_one_line_per_interval_and_none_if_disabled(capsys):
    for enabled in (True, False):
        with ProgressDisplay(enabled=enabled, seconds=1e9) as progress, progress.task("a", 9, "files") as update:
            for done in range(9):
                update(done + 1)
    assert len(capsys.readouterr().err.splitlines()) == 1
