"""The page of `smalti demo` in a headless Chromium."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="the page needs the extra gradio")
sys.path.insert(0, str(Path(__file__).parent))

from browser import Browser, missing_program

from smalti.__main__ import main
from smalti.playground.page import build_page, launch

TOKENS = "document.querySelector('#tokens img')"


@pytest.fixture
def browser(tmp_path):
    if missing_program():
        pytest.skip(f"{missing_program()} is not installed")
    with Browser(tmp_path / "profile") as browser:
        yield browser


def test_the_page_shows_a_photo_and_edits_its_tokens(browser, small, photo, tmp_path, capsys):
    from smalti import save_image

    save_image(photo, tmp_path / "photo.png")
    page = build_page(small(), "my-tokenizer")
    address = launch(page, "127.0.0.1", 0, block=False)
    try:
        assert address in capsys.readouterr().out
        browser.open(address)
        browser.upload("#file input[type=file]", tmp_path / "photo.png")
        browser.wait(lambda: browser.evaluate(f"{TOKENS} && {TOKENS}.complete && {TOKENS}.naturalWidth > 0"))
        assert "3,072 bits" in browser.evaluate("document.querySelector('#summary').innerText")
        size = "i => [i.naturalWidth, i.naturalHeight]"
        for name in ("original", "reconstruction", "difference"):
            selector = f"[...document.querySelectorAll('#{name} img')].map({size})"
            browser.wait(lambda selector=selector: browser.evaluate(selector) == [[96, 64]])
        before = browser.evaluate(f"{TOKENS}.src")
        browser.evaluate("document.querySelector('#noise').click()")
        browser.wait(lambda: browser.evaluate(f"{TOKENS}.src") != before)
        edited = browser.evaluate(f"{TOKENS}.src")
        browser.evaluate("document.querySelector('#reset').click()")
        browser.wait(lambda: browser.evaluate(f"{TOKENS}.src") not in (edited, None))
        browser.screenshot(tmp_path / "page.png")
        assert (tmp_path / "page.png").stat().st_size > 10_000
    finally:
        page.close()


def test_bad_input_is_one_sentence(tmp_path, capsys):
    assert main(["demo", str(tmp_path / "missing")]) == 2
    assert "There is no tokenizer at" in capsys.readouterr().err
