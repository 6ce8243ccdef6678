"""Boxes in a model's own numbers: there and back, at every size of picture."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storyreason.format import answer, grids
from storyreason.format.boxes import Box

CONVENTIONS = [
    "original",
    "thousandths",
    "resized:28:3136:12845056",
    "resized:32:65536:16777216",
    "resized:28:784:200704",
]
SIZES = [(112, 196), (448, 448), (575, 240), (4000, 3200), (8000, 5000), (5000, 8000), (200, 1)]
"""0.2, 12.8 and 40 megapixels among them."""

side = st.integers(1, 9000)
sizes = st.one_of(st.sampled_from(SIZES), st.tuples(side, side).filter(lambda one: max(one) <= 200 * min(one)))


@st.composite
def framed(draw: st.DrawFn) -> tuple[Box, grids.Size]:
    """A box with an area within a picture, and the picture's size."""
    width, height = draw(sizes)
    x1, y1 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    return Box(x1, y1, draw(st.integers(x1 + 1, width)), draw(st.integers(y1 + 1, height))), (width, height)


@given(framed(), st.sampled_from(CONVENTIONS))
def test_there_and_back_is_off_by_half_a_unit_of_the_coarser_size_at_most(
    one: tuple[Box, grids.Size], convention: str
) -> None:
    box, size = one
    there = grids.grid(convention, size)
    written = grids.convert(box, (size, there))
    back = grids.convert(written, (there, size))
    for found, (wide, high) in ((written, there), (back, size)):  # within the picture, with an area
        assert 0 <= found.x1 < found.x2 <= wide
        assert 0 <= found.y1 < found.y2 <= high
    for (low, high), (low_back, high_back), before, after in (
        (box[::2], back[::2], size[0], there[0]),
        (box[1::2], back[1::2], size[1], there[1]),
    ):
        unit = max(1, before / after)
        narrow = (high - low) * after < before
        most = unit if narrow else unit / 2
        assert max(abs(low - low_back), abs(high - high_back)) <= most + 0.5 * (after < before)


@given(framed())
def test_where_the_grid_is_finer_nothing_is_lost(one: tuple[Box, grids.Size]) -> None:
    box, (width, height) = one
    there = (2 * width + 1, 3 * height)
    assert grids.convert(grids.convert(box, ((width, height), there)), (there, (width, height))) == box
    assert grids.convert(box, ((width, height), (width, height))) == box


def test_halves_go_up_and_a_narrow_box_keeps_an_area() -> None:
    assert grids.convert(Box(1, 3, 5, 7), ((10, 10), (5, 5))) == (1, 2, 3, 4)
    assert grids.convert(Box(8, 0, 9, 3), ((8000, 1000), (1000, 1000))) == (1, 0, 2, 3)
    assert grids.convert(Box(7997, 0, 8000, 3), ((8000, 1000), (1000, 1000))) == (999, 0, 1000, 3)
    # What a model gets wrong stays wrong, so that it is seen: corners in the wrong order, and beyond the picture.
    assert grids.convert(Box(500, 900, 200, 1200), ((1000, 1000), (100, 50))) == (50, 45, 20, 60)


@pytest.mark.parametrize("text", ["", "pixels", "resized", "resized:0:1:2", "resized:28:3136", "thousandths:1"])
def test_what_is_no_convention(text: str) -> None:
    assert re.match(grids.CONVENTION, text) is None


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_convention_is_recognized(convention: str) -> None:
    assert re.match(grids.CONVENTION, convention)


ANSWER = """\
<think>
## Image 1

### Characters
| Character ID | Name | Description | Emotions | Actions | Narrative Function | Bounding Box |
|--------------|------|-------------|----------|---------|-------------------|--------------|
| char1 | Mara 1,2,3,4 | a\\|b | calm | reads | heroine | 57, 12,115,120  |

## Image 2

### Objects
| Object ID | Description | Function | Interaction | Narrative Function | Bounding Box |
|-----------|-------------|----------|------------|-------------------|--------------|
| obj1 | kite | toy | flown | hope | 10,20,30,40
| obj2 | a box that cannot be read | toy | none | none | 10,20,30 |

## Image 3
### Objects
| obj3 | of an image that is not there | toy | none | none | 1,2,3,4 |
</think>
<gdi image1>
| obj1 | kite | toy | flown | hope | 10,20,30,40 |
</gdi>"""


def test_an_answer_is_converted_and_nothing_else_in_it_changes() -> None:
    changes = [((575, 240), (1000, 1000)), ((100, 100), (200, 400))]
    found = grids.converted(ANSWER, changes)
    assert found == ANSWER.replace("57, 12,115,120 ", "99,50,200,500 ").replace(
        "flown | hope | 10,20,30,40\n", "flown | hope | 20,80,60,160\n"
    )
    read = answer.read(found)
    assert read.analysis is not None
    assert [row.box for section in read.analysis.sections for row in section.entities][:2] == [
        (99, 50, 200, 500),
        (20, 80, 60, 160),
    ]


@pytest.mark.parametrize(
    "text", ["", "no analysis\n| char1 | 1,2,3,4 |", "<think>", "<think>## Image 1\n", "</think><think>"]
)
def test_what_has_no_boxes_stays_as_it_is(text: str) -> None:
    assert grids.converted(text, [((10, 10), (20, 20))]) == text
