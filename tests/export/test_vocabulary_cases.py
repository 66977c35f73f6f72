"""Our ids, strings and constraints equal those that published code computed (tests/parity/vocabulary.json)."""

import json
import runpy
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ADAPTER = runpy.run_path(str(HERE / "vocabulary_cases.py"))
CASES = json.loads((HERE.parent / "parity" / "vocabulary.json").read_text(encoding="utf-8"))["cases"]
OUTPUTS = (
    "expected", "expected_strings", "labels", "valid", "sequence", "image_rows", "returned_prompt", "image_span",
)  # fmt: skip


def inputs(case):
    return {key: value for key, value in case.items() if key not in OUTPUTS}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_equals_the_published_code(case):
    assert ADAPTER["answer"](inputs(case)) == case["expected"]


@pytest.mark.parametrize("case", [c for c in CASES if "expected_strings" in c], ids=lambda case: case["id"])
def test_strings_equal_those_of_the_published_code(case):
    assert ADAPTER["answer_strings"](inputs(case)) == case["expected_strings"]


@pytest.mark.parametrize("case", [c for c in CASES if "sequence" in c], ids=lambda case: case["id"])
def test_a_sequence_that_published_code_generated_obeys_the_constraints(case):
    steps = ADAPTER["answer"](inputs(case))
    assert len(steps) == len(case["sequence"])
    assert all(low <= number <= high for (low, high), number in zip(steps, case["sequence"], strict=True))
