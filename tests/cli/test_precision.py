"""The precision auto becomes one that is fast on the device, in recipes and in options."""

import pytest
import torch

from smalti.cli.precision import fastest_precision
from smalti.cli.recipes import load_recipes
from smalti.cli.training_arguments import prepare_arguments


@pytest.mark.parametrize(
    ("amx", "avx512", "precision"),
    [(True, True, "bf16-mixed"), (False, True, "bf16-mixed"), (False, False, "32-true")],
)
def test_a_cpu_computes_in_bfloat16_where_it_has_instructions_for_it(monkeypatch, amx, avx512, precision):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": amx, "avx512_bf16": avx512})
    assert fastest_precision("cpu") == precision


def test_processors_of_another_kind_have_no_entry(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"sve": True})
    assert fastest_precision("cpu") == "32-true"


@pytest.mark.parametrize(("bf16", "precision"), [(True, "bf16-mixed"), (False, "32-true")])
def test_a_gpu_is_asked_for_its_own_instructions(monkeypatch, bf16, precision):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16 or including_emulation)
    assert fastest_precision("gpu") == precision


def test_recipes_and_options_contain_the_precision_itself(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    automatic = ["-c", "quickstart.yaml", "-c", "{trainer: {precision: auto, accelerator: cpu}}"]
    _, recipe, *options = prepare_arguments("fit", automatic)
    assert load_recipes(recipe)["trainer"]["precision"] == "bf16-mixed"
    assert options == []
    _, _, *options = prepare_arguments("fit", ["-c", "quickstart.yaml", "--trainer.precision=auto"])
    assert options[0] == "--trainer.precision"
    assert options[1] in ("bf16-mixed", "32-true")
    _, recipe, *options = prepare_arguments("fit", [*automatic, "--trainer.precision", "16-mixed"])
    assert options == ["--trainer.precision", "16-mixed"]
    assert load_recipes(recipe)["trainer"]["precision"] == "16-mixed"
