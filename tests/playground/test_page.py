"""The page of `smalti demo` in a headless Chromium."""

import re
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("gradio", reason="the page needs the extra gradio")
sys.path.insert(0, str(Path(__file__).parent))

from browser import Browser, missing_program

from smalti.__main__ import main
from smalti.pixels import pixels_to_uint8
from smalti.playground.page import build_page, launch
from smalti.tokenizers import onevae
from smalti.tokenizers.bottlenecks import FSQ
from smalti.video import write_video

TOKENS = "document.querySelector('#tokens img')"
SUMMARY = "document.querySelector('#summary').innerText"


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
        assert "3,072 bits" in browser.evaluate(SUMMARY)
        size = "i => [i.naturalWidth, i.naturalHeight]"
        for name in ("original", "reconstruction", "difference"):
            selector = f"[...document.querySelectorAll('#{name} img')].map({size})"
            browser.wait(lambda selector=selector: browser.evaluate(selector) == [[96, 64]])
        sources = "[document.querySelector('#tokens img').src, document.querySelector('#reconstruction img').src]"
        before = browser.evaluate(sources)
        most, next_most = re.findall(r"Most frequent ids: (\d+), (\d+)", browser.evaluate(SUMMARY))[0]
        browser.enter("#first input", most)
        browser.enter("#second input", next_most)
        for button in ("swap", "mask", "noise"):
            browser.evaluate(f"document.querySelector('#{button}').click()")
            browser.wait(lambda: all(a != b for a, b in zip(browser.evaluate(sources), before, strict=True)))
            browser.screenshot(tmp_path / f"{button}.png")
            browser.evaluate("document.querySelector('#reset').click()")
            browser.wait(lambda: browser.evaluate(sources) == before)
        browser.screenshot(tmp_path / "page.png")
        assert (tmp_path / "page.png").stat().st_size > 10_000
    finally:
        page.close()


def test_the_page_shows_each_frame_of_a_clip(browser, photo, tmp_path):
    torch.manual_seed(0)
    tokenizer = onevae(FSQ([8, 8, 8]), stride=(4, 8, 8), channels=8, blocks=1).eval()
    frames = [photo[0].roll(4 * index, 2) for index in range(9)]  # the photo moves
    write_video(tmp_path / "clip.mp4", pixels_to_uint8(torch.stack(frames)).unbind(0), 25)
    page = build_page(tokenizer, "my-video-tokenizer")
    address = launch(page, "127.0.0.1", 0, block=False)
    try:
        browser.open(address)
        browser.upload("#file input[type=file]", tmp_path / "clip.mp4")
        browser.wait(lambda: "9 frames of" in (browser.evaluate(f"{SUMMARY} || ''")))
        original = "document.querySelector('#original img').src"
        first = browser.wait(lambda: browser.evaluate(f"document.querySelector('#original img') && {original}"))
        browser.enter("#frame input[type=number]", 8)
        browser.wait(lambda: browser.evaluate(original) != first)
        browser.screenshot(tmp_path / "page.png")
    finally:
        page.close()


def test_bad_input_is_one_sentence(tmp_path, capsys):
    assert main(["demo", str(tmp_path / "missing")]) == 2
    assert "There is no tokenizer at" in capsys.readouterr().err
