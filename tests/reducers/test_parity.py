"""Every reducer agrees with the published code: see tests/parity/README.md."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

PARITY = Path(__file__).parents[1] / "parity" / "reducers"
FILES = sorted(PARITY.glob("*.safetensors"))
INPUTS = {
    "m3": r"\w+\.tokens", "stf": r"tokens|weights\..*", "mbtf": r"hidden_states|crosslayer\..*|projector\..*",
    "proxyv": r"\w+\.(tokens|weights\..*)", "convllava": r"(tower\.stage4_)?features|weights\..*",
    "prumerge": r"\w+\.[xqk]", "globalcom2": r".*(tokens|crop_cls_scores|thumbnail_cls_scores|newline|hidden_states)"
    r"|.*_proj\..*",
    "mustdrop": r".*(tokens|attention_cls)", "vqtoken": r".*\.(tokens|init_centroids|weights\..*)|attn_.*\.indices|"
    r".*codebook|.*distortions", "uhd_slicing": r"sizes|.*\.image", "uhd_resampler": r"weights\..*|.*tokens",
    "llava_mini": r".*weights\..*|.*tokens", "quecc": r".*weights\..*|.*\.(tokens|multi_level|text)",
    "scaling_law": r"table\.(params|N|T)|plan\.query|\w+\.(N|T|scores)", "voco": r".*(ids|attention_mask)",
    "langdc": r".*tokens",
}  # fmt: skip
"""The inputs of each file, as regular expressions; every other tensor is an output."""

_spec = importlib.util.spec_from_file_location("reducer_cases", Path(__file__).with_name("cases.py"))
cases = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(cases)


def read(file):
    import re

    with safe_open(file, "pt") as content:
        case = json.loads(content.metadata()["case"])
        tensors = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118 (not a mapping)
    inputs = {key: value for key, value in tensors.items() if re.fullmatch(INPUTS[case["reducer"]], key)}
    return inputs, {key: value for key, value in tensors.items() if key not in inputs}, case


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_outputs_equal_those_of_the_published_code(file):
    inputs, expected, case = read(file)
    found = cases.outputs(file.stem, dict(inputs), case)
    assert expected.keys() <= found.keys()
    for name, value in expected.items():
        ours = found[name]
        assert ours.shape == value.shape, name
        assert ours.dtype == value.dtype, name
        if value.dtype.is_floating_point and not name.endswith(("grid_params", "fit_params")):
            largest = float(value.nan_to_num().abs().max())
            bound = (1e-9 if name.endswith("scales") else 1e-5 if value.dtype == torch.float32 else 1e-6) * largest
            bound = max(bound, 1e-8) if value.dtype != torch.float16 else 0
            torch.testing.assert_close(
                ours, value, rtol=0, atol=bound, equal_nan=True, msg=lambda m, n=name: f"{n}: {m}"
            )
        elif value.dtype.is_floating_point:  # parameters of a fit are nearly collinear: see the losses and predictions
            torch.testing.assert_close(ours, value, rtol=1e-4, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
        else:
            assert torch.equal(ours, value), name


def test_there_is_a_file_for_every_case():
    assert {file.stem for file in FILES} == cases._CASES.keys() == INPUTS.keys()
