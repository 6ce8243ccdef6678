"""The JSON for the page: everything is prepared, nothing is left to parse."""

import io
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storyreason import page
from storyreason.errors import DataError
from storyreason.format import answer as answers
from tests.storyreason.page.conftest import Told


def test_a_view_holds_frames_entities_tables_story_and_phases(told: Told) -> None:
    # when a reference is viewed alone
    view = page.view("beach-1", told.images, reference=told.reference)

    # then its frames are data URLs with their sizes
    assert view["id"] == "beach-1"
    assert [(f["number"], f["width"], f["height"]) for f in view["images"]] == [(1, 60, 40), (2, 60, 40)]
    assert all(f["src"].startswith("data:image/png;base64,") for f in view["images"])
    # and its one answer is valid and complete
    (answer,) = view["answers"]
    assert (answer["role"], answer["readable"], answer["valid"]) == ("reference", True, True)
    assert [(e["id"], e["kind"], e["name"], e["mentions"]) for e in answer["entities"]] == [
        ("char1", "char", "Mara", 4),
        ("obj1", "obj", "blue ball", 1),
    ]
    assert answer["entities"][0]["images"] == [
        {"image": 1, "box": [5, 5, 20, 35], "mentions": 2},
        {"image": 2, "box": [30, 5, 45, 35], "mentions": 2},
    ]
    first = answer["scenes"][0]
    assert first["setting"] == "A beach · Quiet · Noon"
    assert [table["title"] for table in first["tables"]] == ["Characters", "Objects", "Setting"]
    assert first["tables"][0]["rows"][0]["cells"][0] == "char1"
    assert first["tables"][0]["rows"][0]["cells"][-1] == "5,5,20,35"
    assert [(p["text"], p.get("kind"), p.get("ids")) for p in first["parts"]] == [
        ("Mara", "gdo", ["char1"]),
        (" ", None, None),
        ("waited", "gda", ["char1"]),
        (" by ", None, None),
        ("the ball", "gdo", ["obj1"]),
        (".", None, None),
    ]
    assert [(p["name"], p["images"]) for p in answer["phases"]][2] == ("Conflict", [1, 2])


def test_what_breaks_a_rule_is_marked_where_it_stands(told: Told) -> None:
    # when a prediction with an unknown entity and an untagged pronoun is viewed
    (answer,) = page.view("beach-1", told.images, prediction=told.prediction)["answers"]

    # then it is invalid, and each problem is attached to exactly the words it is about
    assert not answer["valid"]
    rules = [problem["rule"] for problem in answer["problems"]]
    marked = {
        part["text"]: [rules[index] for index in part["problems"]]
        for scene in answer["scenes"]
        for part in scene["parts"]
        if part.get("problems")
    }
    assert marked == {"a dog": ["id-unknown"], "she": ["pronoun-untagged"]}
    assert answer["entities"][-1]["id"] == "obj9"
    assert not answer["entities"][-1]["known"]


def test_rows_and_boxes_that_break_a_rule_are_marked(told: Told) -> None:
    text = told.reference.replace("5,5,20,35", "20,5,5,35").replace("35,20,50,35", "35,20,64,35")
    (answer,) = page.view("beach-1", told.images, prediction=text)["answers"]
    scene = answer["scenes"][0]
    person, ball = scene["tables"][0]["rows"][0], scene["tables"][1]["rows"][0]
    assert [answer["problems"][i]["rule"] for i in person["problems"]] == ["box-inverted"]
    assert [answer["problems"][i]["rule"] for i in ball["problems"]] == ["box-over-edge"]
    # an inverted box is not drawn, one beyond the edge is clipped to the frame
    assert [(box["id"], box["box"]) for box in scene["boxes"]] == [("obj1", [35, 20, 60, 35])]


def test_the_same_entity_in_both_answers_has_one_colour(told: Told) -> None:
    prediction, reference = page.view("beach-1", told.images, told.prediction, told.reference)["answers"]
    mine = {entity["id"]: entity for entity in prediction["entities"]}
    theirs = {entity["id"]: entity for entity in reference["entities"]}
    assert mine["obj2"]["twin"] == "obj1"
    assert theirs["obj1"]["twin"] == "obj2"
    assert mine["obj2"]["colour"] == theirs["obj1"]["colour"]
    assert mine["obj9"]["twin"] is None
    assert mine["obj9"]["colour"] not in {entity["colour"] for entity in reference["entities"]}
    # Mara's box is one of 15 columns off: 14 of 16 columns overlap
    assert prediction["scenes"][0]["boxes"][0]["iou"] == pytest.approx(14 / 16)


@pytest.mark.parametrize(
    "text", ["", "Once upon a time.", "<think>\n## Image 1", "<think>\n\n</think>\n<gdo x>a", "\x00<"]
)
def test_an_answer_that_cannot_be_read_is_shown_as_it_came(told: Told, text: str) -> None:
    view = page.view("beach-1", told.images, text, told.reference)
    prediction = view["answers"][0]
    assert not prediction["valid"]
    assert prediction["problems"]
    assert prediction["readable"] or prediction["raw"] == text
    json.dumps(view, allow_nan=False)


def test_a_truncated_answer_shows_what_is_complete(told: Told) -> None:
    text = told.reference[: told.reference.index("| Turning Point")]
    (answer,) = page.view("beach-1", told.images, prediction=text)["answers"]
    assert answer["readable"]
    assert not answer["valid"]
    assert len(answer["entities"]) == 2
    assert [len(scene["parts"]) for scene in answer["scenes"]] == [0, 0]


def test_an_image_that_the_story_does_not_have_is_shown_without_a_frame(told: Told) -> None:
    text = told.reference.replace("## Image 2", "## Image 7")
    (answer,) = page.view("beach-1", told.images, prediction=text)["answers"]
    assert [scene["image"] for scene in answer["scenes"]] == [1, 2, 7]
    assert answer["scenes"][2]["boxes"] == []


def test_scores_that_are_no_numbers_are_left_out(told: Told) -> None:
    scores = {"strict/grounding/f1": 0.5, "strict/grounding/bg/mean_iou": float("nan")}
    view = page.view("beach-1", told.images, told.prediction, scores=scores)
    assert view["answers"][0]["scores"] == {"strict/grounding/f1": 0.5}


def test_pictures_that_browsers_do_not_know_become_png(told: Told) -> None:
    from PIL import Image

    out = io.BytesIO()
    Image.open(io.BytesIO(told.images[0])).save(out, "TIFF")
    view = page.view("beach-1", [out.getvalue(), told.images[1]], reference=told.reference)
    assert view["images"][0]["src"].startswith("data:image/png;base64,")


def test_a_picture_that_cannot_be_read_is_named(told: Told) -> None:
    with pytest.raises(DataError, match="Story beach-1, image 2"):
        page.view("beach-1", [told.images[0], b"no picture"], reference=told.reference)


PIECES = ("", "\n", "\r", "|", "0,0,9", "<gdo char1>", "</gdi>", "<gdi image9>", "</think>")


def test_a_passage_without_words_is_shown_as_untold(told: Told) -> None:
    text = told.reference.replace("<gdo char1>She</gdo> <gda char1>played</gda>.", "")
    (answer,) = page.view("beach-1", told.images, prediction=text)["answers"]
    assert answer["scenes"][1]["parts"] == []


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_no_text_makes_it_raise(told: Told, data: st.DataObject) -> None:
    """An answer with parts removed and others inserted is still shown."""
    text = told.prediction
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 60)))
        piece = data.draw(st.sampled_from(PIECES) | st.text())
        text = text[:start] + piece + text[end:]
    view = page.view("beach-1", told.images, text, told.reference)
    assert page.render([view])


def test_sections_and_passages_are_put_to_their_images_in_one_go() -> None:
    # given an answer of many images, whose numbers count how often they are compared
    class Counted(int):
        compared = 0

        def __eq__(self, other: object) -> bool:
            Counted.compared += 1
            return int(self) == other

        __hash__ = int.__hash__

    count = 200
    headings = "".join(f"## Image {number}\n" for number in range(count))
    read = answers.read(f"<think>\n{headings}</think>\n" + "".join(f"<gdi image{n}>a</gdi>" for n in range(count)))
    assert read.analysis is not None and read.story is not None
    analysis = replace(
        read.analysis, sections=tuple(replace(s, image=Counted(s.image)) for s in read.analysis.sections)
    )
    told = replace(read.story, passages=tuple(replace(p, image=Counted(p.image)) for p in read.story.passages))

    # when it is viewed
    view = page.so_far("story", [], replace(read, analysis=analysis, story=told))

    # then there is a scene for each, and no number was compared with all others
    assert len(view["answers"][0]["scenes"]) == count
    assert Counted.compared < 20 * count
