"""The rate-distortion plot: where points are drawn, what the legend says, and that the SVG is complete."""

import xml.etree.ElementTree as ElementTree

import pytest

from smalti.eval.rate_distortion_plot import RateSeries, rate_distortion_plot

SVG = "{http://www.w3.org/2000/svg}"


def draw(*series):
    return ElementTree.fromstring(rate_distortion_plot(series))


def markers(svg):
    """Return (x, y) of each circle that is a point, not a part of the legend, by its tooltip."""
    groups = [group for group in svg.iter(f"{SVG}g") if group.find(f"{SVG}text") is None]
    circles = {group.findtext(f"{SVG}title"): group.find(f"{SVG}circle") for group in groups}
    return {title: (float(c.get("cx")), float(c.get("cy"))) for title, c in circles.items() if c is not None}


def test_more_bits_are_drawn_further_right_in_octaves_and_higher_psnr_further_up():
    svg = draw(RateSeries("codec", [(4.0, 34.0), (0.5, 22.0), (1.0, 28.0)]))
    (a, b, c) = (
        markers(svg)[f"codec: {bits} bits per pixel, {psnr}.00 dB"] for bits, psnr in ((0.5, 22), (1, 28), (4, 34))
    )
    assert c[0] - b[0] == pytest.approx(2 * (b[0] - a[0]), abs=0.2)  # 2 octaves and 1
    assert b[1] - c[1] == pytest.approx(a[1] - b[1], abs=0.2)
    assert a[1] > b[1] > c[1]
    (line,) = svg.findall(f"{SVG}polyline")
    assert line.get("points").split() == [f"{x:.1f},{y:.1f}" for x, y in (a, b, c)]
    labels = [text.text for text in svg.iter(f"{SVG}text")]
    assert {"0.5", "1", "2", "4", "24", "30", "PSNR (dB)", "bits per pixel"} <= set(labels)


def test_labels_are_escaped_and_long_ones_keep_their_end():
    svg = draw(
        RateSeries("<b> & more", [(1.0, 20.0)], emphasized=True), RateSeries("folder/" * 20 + "report", [(1.0, 20.0)])
    )
    legend = [group.findtext(f"{SVG}text") for group in svg.iter(f"{SVG}g") if group.find(f"{SVG}text") is not None]
    assert legend[0] == "<b> & more"
    assert legend[1].startswith("…")
    assert legend[1].endswith("folder/report")


def test_any_number_of_entries_fits():
    svg = draw(*(RateSeries(f"report {i}", [(0.001 * (i + 1), 10.0 + i)]) for i in range(30)), RateSeries("none", []))
    height = float(svg.get("viewBox").split()[3])
    assert all(float(text.get("y", 0)) < height for text in svg.iter(f"{SVG}text"))
    assert "none" not in [text.text for text in svg.iter(f"{SVG}text")]
    assert draw().get("class") == "rd"


@pytest.mark.parametrize("point", [(0.0, 20.0), (-1.0, 20.0), (1.0, float("inf")), (float("nan"), 20.0)])
def test_points_that_have_no_place_raise_an_error(point):
    with pytest.raises(ValueError, match="cannot be drawn"):
        rate_distortion_plot([RateSeries("wrong", [point])])
