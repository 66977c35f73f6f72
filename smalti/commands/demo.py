"""`smalti demo`: a page to try a tokenizer."""

from __future__ import annotations

from pathlib import Path

from smalti.cli.options import TOKENIZER_HELP, add_branch_option, check_tokenizer, open_device, open_tokenizer
from smalti.cli.parser import CommandParser, whole_number

_EXAMPLES = ("smalti demo my-tokenizer", "smalti demo runs/version_0/checkpoints/last.ckpt --port 8000")


def run(name: str, arguments: list[str]) -> int:
    """Serve the page until Ctrl-C.

    Raises:
        SmaltiError: an option is invalid, the tokenizer cannot be loaded, or the port is in use.
        MissingExtraError: gradio is not installed.
    """
    parser = CommandParser(
        name,
        "Open a page in the browser to try a tokenizer: drop an image or a short clip, see the reconstruction, the "
        "difference, the tokens as a picture, the bits and the ratio, and change tokens to see what they mean.",
        _EXAMPLES,
    )
    parser.add_argument("tokenizer", type=Path, help=TOKENIZER_HELP)
    add_branch_option(parser)
    group = parser.add_argument_group("page")
    group.add_argument("--device", default="auto", help="cpu, cuda or mps (default: %(default)s)")
    group.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for other machines (default: %(default)s)"
    )
    group.add_argument(
        "--port", type=whole_number(0), default=7860, help="port to listen on; 0 for a free one (default: %(default)s)"
    )
    options = parser.parse(arguments)
    file = check_tokenizer(options.tokenizer)

    from smalti.playground.page import build_page, import_gradio, launch

    import_gradio()  # before the tokenizer is loaded
    tokenizer = open_tokenizer(file, open_device(options.device), options.branch)
    launch(build_page(tokenizer, file.name), options.host, options.port)
    return 0
