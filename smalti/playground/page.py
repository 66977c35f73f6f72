"""The page of `smalti demo`. It only connects gradio's components to `session` and `edits`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smalti.errors import MissingExtraError, SmaltiError
from smalti.playground.edits import Region, add_noise, mask_tokens, most_frequent, swap_tokens
from smalti.playground.session import Result, Sample, encode, read_sample, show
from smalti.tokenizers.tokenizer import Tokenizer
from smalti.types import Latents, TokenGrid

_FONTS = ["system-ui", "sans-serif"]
"""Fonts of the system: gradio's default would be downloaded."""


@dataclass(frozen=True)
class View:
    """What one browser tab has open.

    Attributes:
        sample: the image or clip.
        content: its tokens or latents, without edits.
        result: what is shown, with edits.
    """

    sample: Sample
    content: TokenGrid | Latents
    result: Result


def import_gradio() -> Any:
    """Import gradio, without its usage statistics.

    Raises:
        MissingExtraError: it is not installed.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio
    except ImportError as error:
        raise MissingExtraError("gradio", "gradio", "Pages to try a tokenizer") from error
    return gradio


def build_page(tokenizer: Tokenizer, name: str) -> Any:
    """Return the page as gradio's `Blocks`.

    Args:
        tokenizer: a tokenizer in evaluation mode.
        name: its name, for the title.

    Raises:
        MissingExtraError: gradio is not installed.
    """
    gradio = import_gradio()
    with gradio.Blocks(title=f"Smalti: {name}", analytics_enabled=False) as page:
        gradio.Markdown(f"# {name}\n\n```text\n{tokenizer}\n```")
        view = gradio.State()
        file = gradio.File(label="Image or short clip", file_types=["image", "video"], elem_id="file")
        summary = gradio.Markdown(elem_id="summary")
        frame = gradio.Slider(0, 1, step=1, value=0, label="Frame", visible=False, elem_id="frame")
        with gradio.Row():
            pictures = [_image(gradio, label) for label in ("Original", "Reconstruction", "Difference x 4")]
        several = tokenizer.discrete and tokenizer.quantizer.tokens_per_position > 1
        label = "Tokens: one map for each token of a position" if several else "Tokens"
        tokens = _image(gradio, label if tokenizer.discrete else "Latents: first three channels")
        outputs = [view, summary, frame, *pictures, tokens]

        def open_file(path: str | None) -> list[Any]:
            if path is None:
                return [None, "", gradio.Slider(visible=False), None, None, None, None]
            with _Errors(gradio):
                sample = read_sample(Path(path))
                content = encode(tokenizer, sample)
                opened = View(sample, content, show(tokenizer, sample, content))
            return _outputs(gradio, opened)

        file.change(open_file, file, outputs)
        frame.change(lambda opened, index: _frames(opened, int(index)), [view, frame], pictures)
        if tokenizer.discrete:
            _add_edits(gradio, tokenizer, view, outputs)
        else:
            gradio.Markdown("Edits need tokens: open a discrete tokenizer, or `--as discrete`.")
    return page


def _add_edits(gradio: Any, tokenizer: Tokenizer, view: Any, outputs: list[Any]) -> None:
    """Add the controls that change tokens."""
    gradio.Markdown(
        "## Change tokens\nEdits start from the tokens of the file, in a region given as fractions of a frame."
    )
    with gradio.Row():
        top = gradio.Slider(0, 1, 0.25, label="Top")
        left = gradio.Slider(0, 1, 0.25, label="Left")
        bottom = gradio.Slider(0, 1, 0.75, label="Bottom")
        right = gradio.Slider(0, 1, 0.75, label="Right")
    region = [top, left, bottom, right]
    ids = {"precision": 0, "minimum": 0, "maximum": tokenizer.quantizer.codebook_size - 1}
    with gradio.Row():
        with gradio.Column():
            first = gradio.Number(0, label="Id", elem_id="first", **ids)
            second = gradio.Number(1, label="Other id", elem_id="second", **ids)
            swap = gradio.Button("Swap the two ids", elem_id="swap")
        with gradio.Column():
            value = gradio.Number(0, label="Id", **ids)
            mask = gradio.Button("Set all tokens to this id", elem_id="mask")
        with gradio.Column():
            probability = gradio.Slider(0, 1, 0.2, label="Probability")
            noise = gradio.Button("Replace tokens by random ids", elem_id="noise")
        with gradio.Column():
            reset = gradio.Button("Undo the edit", elem_id="reset")

    def edit(opened: View | None, change: Any) -> list[Any]:
        with _Errors(gradio):
            if opened is None or not isinstance(opened.content, TokenGrid):
                raise SmaltiError("There are no tokens yet: drop an image or a clip first.")
            result = show(tokenizer, opened.sample, change(opened.content))
        return _outputs(gradio, View(opened.sample, opened.content, result))

    def do_swap(opened: View | None, a: int, b: int, *edges: float) -> list[Any]:
        return edit(opened, lambda tokens: swap_tokens(tokens, a, b, Region(*edges)))

    def do_mask(opened: View | None, a: int, *edges: float) -> list[Any]:
        return edit(opened, lambda tokens: mask_tokens(tokens, a, Region(*edges)))

    def do_noise(opened: View | None, p: float, *edges: float) -> list[Any]:
        size = tokenizer.quantizer.codebook_size
        return edit(opened, lambda tokens: add_noise(tokens, p, size, region=Region(*edges)))

    swap.click(do_swap, [view, first, second, *region], outputs)
    mask.click(do_mask, [view, value, *region], outputs)
    noise.click(do_noise, [view, probability, *region], outputs)
    reset.click(lambda opened: edit(opened, lambda tokens: tokens), view, outputs)


def _outputs(gradio: Any, view: View) -> list[Any]:
    count = len(view.result.original)
    slider = gradio.Slider(0, max(count - 1, 1), value=0, visible=count > 1)
    text = view.result.summary
    if isinstance(view.result.content, TokenGrid):
        frequent = ", ".join(map(str, most_frequent(view.result.content, 5)))
        text += f" Most frequent ids: {frequent}."
    return [view, text, slider, *_frames(view, 0), _to_array(view.result.picture)]


def _frames(view: View | None, index: int) -> list[Any]:
    if view is None:
        return [None, None, None]
    result = view.result
    index = min(index, len(result.original) - 1)
    return [_to_array(x[index]) for x in (result.original, result.reconstruction, result.difference)]


def _to_array(image: Any) -> Any:
    return image.permute(1, 2, 0).contiguous().numpy()


def _image(gradio: Any, label: str) -> Any:
    identifier = label.split()[0].strip(":").lower()
    return gradio.Image(label=label, format="png", interactive=False, elem_id=identifier)


class _Errors:
    """Shows errors for users on the page."""

    def __init__(self, gradio: Any) -> None:
        self.gradio = gradio

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, SmaltiError):
            raise self.gradio.Error(str(error)) from error


def launch(page: Any, host: str, port: int, *, block: bool = True) -> str:
    """Serve the page and return its address.

    Args:
        page: from `build_page`.
        host: address to listen on.
        port: port to listen on; 0 for a free one.
        block: whether to serve until Ctrl-C.

    Raises:
        SmaltiError: the port is in use.
    """
    gradio = import_gradio()
    theme = gradio.themes.Default(font=_FONTS, font_mono=["monospace"])
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port or None,
            theme=theme,
            quiet=True,
            share=False,
            prevent_thread_lock=True,
            inbrowser=False,
        )
    except OSError as error:
        raise SmaltiError(f"The page cannot be served on {host}:{port} ({error}): choose another --port.") from error
    print(f"Open {address} in a browser. Ctrl-C ends it.", flush=True)
    if block:
        page.block_thread()
    return address
