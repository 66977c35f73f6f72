"""The page that compares reports: complete in one file, pictures of shared samples, rivals, definitions."""

import json
import re
from html.parser import HTMLParser

import pytest

from smalti.errors import SmaltiError
from smalti.eval.comparison import read_report
from smalti.eval.comparison_page import comparison_page
from smalti.eval.comparison_pictures import choose_samples
from smalti.eval.comparison_rows import compare
from smalti.eval.evaluate import evaluate
from smalti.eval.metrics import PSNR, SSIM
from smalti.eval.protocols import get_protocol
from smalti.eval.report import Provenance, write_report

PROVENANCE = Provenance(protocol=get_protocol("square64"), data={"source": "photos"}, tokenizer={"fingerprint": "f00d"})
RIVALS = {
    "jpeg": {
        "description": "JPEG <by Pillow>", "bits_per_pixel": 0.5, "equal": "bytes",
        "metrics": {"psnr": {"value": 24.0}, "ssim": {"value": 0.7}},
        "curve": [{"bits_per_pixel": 1.0, "psnr": 28.0}, {"bits_per_pixel": 0.25, "psnr": 20.0}],
    },
    "linear_codec": {
        "description": "principal components", "bits_per_pixel": None, "equal": None, "metrics": {"psnr": {"value": 23.0}}
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def evaluations(build_tokenizer, photo_batches):
    """Evaluations of two tokenizers, which differ in their noise."""
    tokenizers = [build_tokenizer(), build_tokenizer(generative=True)]
    batches = photo_batches()
    batches[0].names[0] = "<b>astronaut & \udcff"
    return [evaluate(tokenizer, batches, [PSNR(), SSIM()]) for tokenizer in tokenizers]


@pytest.fixture
def folders(evaluations, tmp_path):
    for name, evaluation in zip(("first", "second"), evaluations, strict=True):
        write_report(evaluation, tmp_path / name, PROVENANCE)
    return tmp_path / "first", tmp_path / "second"


def edit(folder, change):
    """Apply a function to the content of a metrics.json."""
    file = folder / "metrics.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def make_page(*folders):
    return comparison_page(compare([read_report(folder) for folder in folders]))


class Reader(HTMLParser):
    """Collects the attributes of all elements, and the text."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def test_the_page_needs_no_other_file(folders):
    page = make_page(*folders)
    sources = [
        value
        for _, attributes in Reader(page).elements
        for name, value in attributes.items()
        if name in ("src", "href")
    ]
    assert len(sources) == 6
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert len(re.findall(r"url\(data:", page)) == 3
    assert page.count("http") == page.count('xmlns="http://www.w3.org/2000/svg"')
    page.encode()  # names that are not valid Unicode were replaced
    assert "<b>astronaut" not in page
    assert "prefers-color-scheme: dark" in page


def test_values_differences_and_definitions_are_shown(folders, evaluations):
    page = make_page(*folders)
    first, second = (evaluation.metrics["psnr"].value for evaluation in evaluations)
    assert f"{first:.4g}" in page
    assert f"{second:.4g}" in page
    difference = compare([read_report(folder) for folder in folders]).metrics[0].cells[1].difference
    assert difference.mean == pytest.approx(second - first)
    assert f"{difference.mean:+.1f}"[:3] in page
    assert "with fewer than 20 samples, intervals are too narrow" in page
    text = Reader(page).text
    for phrase in (
        "exp(-sum over codewords of p ln p)",
        "min(codebook_size, tokens)",
        "log2(codebook size) bits per token",
        "Gaussian window 11 x 11",
        "no published values with the protocol square64",
        "f00d",
        "nominal bits",
    ):
        assert phrase in text, phrase


def test_the_worst_median_and_best_sample_have_sliders(folders, evaluations):
    samples = evaluations[0].samples
    ranking = sorted(samples, key=lambda name: samples[name]["psnr"])
    choices = choose_samples([read_report(folder) for folder in folders])
    assert [choice.name for choice in choices] == [ranking[0], ranking[2], ranking[-1]]
    assert [choice.title.split(":")[0] for choice in choices] == ["Worst", "Median", "Best"]
    assert choices[1].title.endswith(f"(number 3 of 5 by psnr of {folders[0]}, from the worst)")
    sliders = [attributes for tag, attributes in Reader(make_page(*folders)).elements if tag == "input"]
    assert len(sliders) == 6
    assert all(slider["type"] == "range" and slider["aria-label"] for slider in sliders)


def test_only_samples_with_pictures_in_all_reports_are_compared(folders, evaluations):
    ranking = [example.name for example in evaluations[0].examples]
    edit(
        folders[1], lambda content: content.update(pictures=[p for p in content["pictures"] if p["name"] == ranking[1]])
    )
    (choice,) = choose_samples([read_report(folder) for folder in folders])
    assert choice.title.startswith("Worst, median, best:")
    assert "number 2 of 5" in choice.title
    edit(folders[1], lambda content: content["pictures"][0].update(name="other"))
    assert "no sample with pictures in common" in make_page(*folders)


def test_rivals_are_in_the_table_and_in_the_plot(folders):
    edit(folders[0], lambda content: content.update(rivals=RIVALS))
    page = make_page(*folders)
    text = Reader(page).text
    assert "jpeg: 0.25 bits per pixel, 20.00 dB" in text
    assert "JPEG <by Pillow>" in text
    assert text.count("linear_codec") == 2  # no point in the plot: it has no rate
    comparison = compare([read_report(folder) for folder in folders])
    assert [(row.report.folder.name, row.rival.name) for row in comparison.rivals] == [
        ("first", "baseline"), ("first", "jpeg"), ("first", "linear_codec"), ("second", "baseline")
    ]  # fmt: skip
    baseline, jpeg = comparison.rivals[:2]
    content = read_report(folders[0]).content
    tokenizer, other = (part["metrics"]["psnr"]["value"] for part in (content, content["baseline"]))
    assert baseline.lead.mean == pytest.approx(tokenizer - other)
    assert jpeg.lead is None  # the report has no values per sample of it


def test_the_baseline_is_not_shown_twice(folders):
    edit(folders[0], lambda content: content.update(rivals={"bicubic": RIVALS["jpeg"]}))
    assert [rival.name for rival in read_report(folders[0]).rivals] == ["bicubic"]


def test_rivals_with_values_per_sample_have_a_lead(folders):
    edit(folders[0], lambda content: content.update(rivals={"jpeg": RIVALS["jpeg"]}))
    file = folders[0] / "per_sample.csv"
    header, *rows = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join([header + b",jpeg_psnr", *(row + b",1.5" for row in rows)]))
    _, jpeg = compare([read_report(folders[0])]).rivals
    assert jpeg.lead.mean == pytest.approx(read_report(folders[0]).metrics["psnr"]["value"] - 1.5)


def test_reports_of_earlier_versions_show_what_they_lack(folders):
    def downgrade(content):
        for key in ("pictures", "bits", "definitions"):
            del content[key]
        content["baseline"]["factor"] = [1, 4, 4]
        del content["baseline"]["equal"], content["codebook"]["definitions"]
        for metric in content["metrics"].values():
            del metric["comparable_with"], metric["not_comparable_because"], metric["unit"]

    edit(folders[1], downgrade)
    page = make_page(*folders)
    assert "second has no pictures: it was written by an earlier version" in page
    edit(folders[1], lambda content: content.pop("samples_sha256"))
    alone = Reader(make_page(folders[1])).text
    assert alone.count("not recorded by the version that wrote the report") >= 4
    with pytest.raises(SmaltiError, match="earlier version"):
        make_page(*folders)


def test_pictures_are_read_only_from_the_report(folders):
    next((folders[0] / "images").glob("00-*-original.png")).write_bytes(b"damaged")
    with pytest.raises(SmaltiError, match=r"00-.*cannot be read: evaluate again"):
        make_page(*folders)
    edit(folders[0], lambda content: content["pictures"][0].update(original="../second/contact_sheet.png"))
    with pytest.raises(SmaltiError, match="pictures"):
        read_report(folders[0])
