"""Charts as files: real pictures in real colours, and SVG that needs no page."""

from io import BytesIO
from xml.etree import ElementTree

import numpy as np
from matplotlib.image import imread

from dashboards.figures import draw_picture, stand_alone
from dashboards.paper import Paper
from dashboards.svg import BAD, INK, Drawing, Mark


def make_drawing() -> Drawing:
    paper = Paper(100, 50)
    paper.line([0, 100], [25, 25], Mark(0).colour, linewidth=20)
    paper.boxes([(0, 0, 20, 10)], BAD, 1.0)
    paper.write(50, 40, "word", colour=INK)
    return Drawing(paper.figure, "c", "a line")


def test_a_picture_has_the_colours_of_the_light_page() -> None:
    pixels = (255 * imread(BytesIO(draw_picture(make_drawing().figure)), "png")[..., :3]).round().astype(int)
    found = {tuple(colour) for colour in np.unique(pixels.reshape(-1, 3), axis=0).tolist()}
    assert {(0, 0x66, 0xB3), (0xB3, 0x26, 0x1E), (255, 255, 255)} <= found
    assert (1, 3, 0) not in found, "a stand-in was left"


def test_an_svg_of_its_own_has_no_variables_left() -> None:
    for theme, ink in (("light", "#1b1f24"), ("dark", "#e6e9ee")):
        svg = stand_alone(make_drawing().svg, theme)
        assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
        assert "var(" not in svg
        assert ink in svg
