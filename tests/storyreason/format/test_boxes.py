import pytest
from hypothesis import given
from hypothesis import strategies as st

from storyreason.format import boxes
from storyreason.format.boxes import Box

corners = st.integers(-1000, 5000)
any_box = st.builds(Box, corners, corners, corners, corners)
proper = st.builds(lambda x, y, w, h: Box(x, y, x + w, y + h), *[st.integers(0, 600)] * 2, *[st.integers(1, 600)] * 2)


@given(any_box)
def test_a_box_that_is_written_reads_as_itself(box: Box) -> None:
    assert boxes.parse(str(box)) == box


@pytest.mark.parametrize("text", ["1,2,3,4", " 1 ,2,\t3 , 4 ", "1, 2, 3, 4"])
def test_spaces_are_allowed(text: str) -> None:
    assert boxes.parse(text) == (1, 2, 3, 4)


@pytest.mark.parametrize(
    "text", ["", "-", "None", "1,2,3", "1,2,3,4,5", "1.0,2,3,4", "a,b,c,d", "[1,2,3,4]", "1_0,2,3,4", "١,2,3,4"]
)
def test_what_is_not_four_whole_numbers_is_no_box(text: str) -> None:
    assert boxes.parse(text) is None


def test_a_million_digits_are_no_box() -> None:
    assert boxes.parse("9" * 1_000_000 + ",2,3,4") is None


def test_iou_by_hand() -> None:
    # Two squares of 100 that share a quarter: 25 / (100 + 100 - 25).
    assert boxes.iou(Box(0, 0, 10, 10), Box(5, 5, 15, 15)) == pytest.approx(25 / 175)
    assert boxes.iou(Box(0, 0, 10, 10), Box(10, 0, 20, 10)) == 0
    assert boxes.iou(Box(10, 10, 0, 0), Box(10, 10, 0, 0)) == 0


@given(proper, proper)
def test_iou_is_symmetric_and_one_only_for_the_same_box(a: Box, b: Box) -> None:
    value = boxes.iou(a, b)
    assert value == boxes.iou(b, a)
    assert 0 <= value <= 1
    assert (value == 1) == (a == b)


@given(st.lists(any_box, max_size=4), st.lists(any_box, max_size=4))
def test_the_matrix_holds_the_same_values(a: list[Box], b: list[Box]) -> None:
    matrix = boxes.iou_matrix(a, b)
    assert matrix.shape == (len(a), len(b))
    assert matrix.tolist() == [[boxes.iou(x, y) for y in b] for x in a]


@given(any_box, st.integers(1, 2000), st.integers(1, 2000))
def test_a_clipped_box_lies_in_the_image(box: Box, width: int, height: int) -> None:
    clipped = boxes.clip(box, width, height)
    assert 0 <= clipped.x1 <= width and 0 <= clipped.x2 <= width
    assert 0 <= clipped.y1 <= height and 0 <= clipped.y2 <= height
    assert boxes.clip(clipped, width, height) == clipped
