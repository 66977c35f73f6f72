"""Expanding the patterns that name webdataset shards."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from smalti.errors import SmaltiError
from smalti.extensions import is_untrusted, refuse_code


def expand_pattern(pattern: str) -> list[str]:
    """Return the shards that a pattern names. Braces are expanded first, then globs of local paths, which are sorted.

    Args:
        pattern: a path with braces ("photos-{000..009}.tar"), a glob ("photos-*.tar") or a URL, which may have braces. URLs
            are not opened.

    Raises:
        SmaltiError: a glob matches nothing, a local file does not exist, the braces are malformed, or recipes must not run
            code and a URL would.
    """
    from webdataset.shardlists import expand_urls

    try:
        parts = expand_urls(pattern)
    except ValueError:
        raise SmaltiError(f"The braces of the shard pattern '{pattern}' are malformed: write {{000..009}}.") from None
    urls: list[str] = []
    for part in parts:
        if is_url(part):
            urls.append(part)
            continue
        path = str(Path(part).expanduser())
        matches = [path] if Path(path).is_file() else _glob(path)
        if not matches:
            context = "" if part == pattern else f" of the pattern '{pattern}'"
            raise SmaltiError(f"No shard matches '{part}'{context}: check the path.")
        urls += matches
    if is_untrusted():
        for url in urls:
            _check_runs_no_code(url)
    return urls


def _check_runs_no_code(url: str) -> None:
    """Check that opening a shard runs no code. webdataset opens most URLs, and all pipes, by a command of the shell.

    Raises:
        SmaltiError: the shard is neither a local file nor a plain http or https URL.
    """
    scheme = urlsplit(url).scheme.lower()
    plain = re.fullmatch(r"[\w.:/?&=%+,@~-]+", url, re.ASCII) is not None
    if scheme and not (scheme in ("http", "https") and plain):
        raise refuse_code(f"The shard '{url}'", "a local file or a plain http or https URL")


def _glob(pattern: str) -> list[str]:
    path = Path(pattern)
    relative = path.relative_to(path.anchor) if path.is_absolute() else path
    return sorted(str(match) for match in Path(path.anchor).glob(str(relative)) if match.is_file())


def is_url(text: str) -> bool:
    """Return whether a shard is a URL, which may be a pipe, and not a local path."""
    return re.match(r"[a-z][a-z0-9+.-]+:", text) is not None
