"""The contact sheet of a film in a real browser: what is picked becomes a correction that `identify` takes."""

from pathlib import Path

import pytest

from storyreason import perception, pictures
from storyreason.page import sheet
from tests.storyreason.page.conftest import Open, Told


@pytest.mark.server
def test_boxes_that_are_picked_become_corrections(open_: Open, told: Told, tmp_path: Path) -> None:
    """Two frames of one person, whom the second calls by another ID, and a film whose name could become markup."""
    film = "clara </script><b>"
    frames = [
        {
            "scene": 1,
            "frame": 10 + number,
            "seconds": number / 2,
            "width": 60,
            "height": 40,
            "src": pictures.data_url(image),
            "seen": [{"entity": f"char{number}", "label": "person", "box": [5, 5, 20, 35], "probability": None}],
        }
        for number, image in enumerate(told.images, 1)
    ]
    path = tmp_path / "sheet.html"
    path.write_text(sheet.sheet(film, frames))
    shown = open_(path.as_uri())

    assert shown.locator("h1").text_content() == film
    assert shown.locator(".entity b").all_text_contents() == ["char1", "char2"]
    assert shown.locator("#merge").is_disabled()
    shown.locator(".entity .pick").first.click()
    shown.locator("figure rect").nth(1).focus()
    shown.keyboard.press("Enter")
    assert shown.locator("[aria-pressed=true]").count() == 4  # each in the strip and in the frame
    shown.locator("#merge").click()
    assert shown.locator("#merge").is_disabled()

    with shown.expect_download() as saved:
        shown.locator("a[download]").click()
    saved.value.save_as(tmp_path / "corrections.jsonl")
    (correction,) = perception.load_corrections(tmp_path / "corrections.jsonl")
    assert correction.film == film and correction.merge is not None
    assert [(place.scene, place.frame, place.box) for place in correction.merge] == [
        (1, 11, [5, 5, 20, 35]),
        (1, 12, [5, 5, 20, 35]),
    ]
