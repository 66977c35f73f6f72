"""Building the untrained tokenizer of a recipe."""

import pytest
import torch

from smalti.cli.build_tokenizer import build_tokenizer
from smalti.errors import SmaltiError


def test_recipes_are_merged_before_the_tokenizer_is_built():
    with torch.device("meta"):
        tokenizer = build_tokenizer("quickstart.yaml", "{model: {tokenizer: {stride: 16, bottleneck: {levels: [4]}}}}")
    assert tokenizer.encoder.stride == (1, 16, 16)
    assert tokenizer.quantizer.bits_per_position == 8
    assert next(tokenizer.parameters()).is_meta


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("data/photos.yaml", r"data/photos\.yaml has no tokenizer"),
        ("{model: {tokenizer: {class_path: wetok, init_args: {stride: 8}}}}", "bottleneck"),
        ("{model: {tokenizer: {class_path: wetok, init_args: {strides: 8}}}}", "strides"),
        ("{model: {tokenizer: {class_path: FSQ, init_args: {levels: [4]}}}}", "FSQ"),
        ("{model: {tokenizer: {class_path: wetok, init_args: {bottleneck: {class_path: FSQ}}}}}", "levels"),
    ],
)
def test_errors_are_one_line(recipe, message):
    with pytest.raises(SmaltiError, match=message) as error:
        build_tokenizer(recipe)
    assert "\n" not in str(error.value)


def test_the_error_of_a_network_is_kept():
    with pytest.raises(SmaltiError, match="stride is 12: give a power of 2"):
        build_tokenizer("quickstart.yaml", "{model: {tokenizer: {stride: 12}}}")
