"""Statistics of a data set: counted by hand for two stories, and shown on one page."""

import io
import json
import re
from pathlib import Path

import pytest

from storyreason import dataset
from storyreason.dataset import stats
from storyreason.page.report import report

THOUGHT = """## Image 1

### Characters
| Character ID | Name | Description | Emotions | Actions | Narrative Function | Bounding Box |
|---|---|---|---|---|---|---|
| char1 | Mara | A woman | Calm | Waiting | Protagonist | 0,0,10,20 |
| char2 | Tom | A man | Calm | Waiting | Helper | 50,0,60,20 |

### Objects
| Object ID | Description | Function | Interaction | Narrative Function | Bounding Box |
|---|---|---|---|---|---|
| lm1 | A tower | Landmark | - | - | 80,0,90,60 |

## Image 2

### Characters
| Character ID | Name | Description | Emotions | Actions | Narrative Function | Bounding Box |
|---|---|---|---|---|---|---|
| char1 | Mara | A woman | Glad | Running | Protagonist | 60,0,70,20 |

## Image 3

### Characters
| Character ID | Name | Description | Emotions | Actions | Narrative Function | Bounding Box |
|---|---|---|---|---|---|---|
| char1 | Mara | A woman | Glad | Running | Protagonist | 60,0,70,20 |
| char2 | Tom | A man | Calm | Waiting | Helper | 50,0,60,20 |

### Objects
| Object ID | Description | Function | Interaction | Narrative Function | Bounding Box |
|---|---|---|---|---|---|
| obj1 | A ball | Toy | - | - | 10,10,20,20 |

## Narrative Structure

| Narrative Phase | Description | Key Events | Images |
|---|---|---|---|
| Introduction | x | y | 1 |
| Conclusion | x | y | 2-3 |
"""
STORY = """<gdi image1>
<gdo char1>Mara</gdo> <gda char1>saw</gda> <gdo char2>Tom</gdo> and <gdl lm1>the tower</gdl>; he saw <gdo char1>her</gdo>.
</gdi>
<gdi image2>
<gdo char1>She</gdo> <gda char1>ran</gda> to him and Tom ran.
</gdi>
<gdi image3>
<gdo char1 char2>They</gdo> <gda char1 char2>met</gda>.
</gdi>"""


@pytest.fixture
def examples() -> list[dataset.Example]:
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (100, 60)).save(out, "PNG")
    return [
        dataset.Example("a", (out.getvalue(),) * 3, THOUGHT, STORY),
        dataset.Example("b", (out.getvalue(),), "nothing that reads", "Nothing."),
    ]


def test_a_story_is_counted_as_by_hand(examples: list[dataset.Example]) -> None:
    found = stats.describe(examples)

    assert (found["stories"], found["unreadable"]) == (2, 1)
    assert found["totals"] == {
        "images": 3, "words": 18, "mentions": 9, "gdo": 5, "gda": 3, "gdl": 1,
        "characters": 2, "things": 1, "landmarks": 1, "backgrounds": 0,
    }  # fmt: skip
    assert found["distributions"]["entities per image"] == {
        "mean": 7 / 3, "minimum": 1, "median": 3, "p95": 3, "maximum": 3, "counts": {"1": 1, "3": 2}
    }  # fmt: skip
    # char1 is in three images, char2 in two; the story mentions char1 in three and char2 in two
    assert found["across"]["analysis"]["char"] == {"2": 1, "3": 1}
    assert found["across"]["story"] == {"char": {"2": 1, "3": 1}, "lm": {"1": 1}}
    # from image 1 to 2 Mara stays; from 2 to 3 the ball is new and Tom comes back
    assert found["transitions"] == {
        "1": {"pairs": 1, "stayed": 1, "new": 0, "returned": 0, "left": 2},
        "2": {"pairs": 1, "stayed": 1, "new": 1, "returned": 1, "left": 0},
    }
    # Mara's box moves by 60 pixels, 51 % of the diagonal of 116.6, then not at all
    assert found["drift"] == {"char": {"pairs": 2, "mean_iou": 0.5, "moved": {"0": 1, "50": 1}}}
    assert found["phases"]["Conclusion"] == {"images": 2, "gdo": 2, "gda": 2, "gdl": 0}


def test_pronouns_and_names_are_told_apart_by_person_and_case(examples: list[dataset.Example]) -> None:
    found = stats.describe(examples)
    assert found["pronouns"] == {
        "he": {"person": "third", "case": "subject", "tagged": 0, "untagged": 1},
        "him": {"person": "third", "case": "object", "tagged": 0, "untagged": 1},
        "she": {"person": "third", "case": "subject", "tagged": 1, "untagged": 0},
        "her": {"person": "third", "case": "object or possessive", "tagged": 1, "untagged": 0},
        "they": {"person": "third", "case": "subject", "tagged": 1, "untagged": 0},
    }
    assert found["names"] == {"tagged": 2, "untagged": 1}
    assert [stats.case_of(word) for word in ("i", "my", "us", "yourselves", "you", "his")] == [
        "subject", "possessive", "object", "reflexive", "subject or object", "possessive"
    ]  # fmt: skip
    assert [stats.person_of(word) for word in ("i", "ours", "your", "them")] == ["first", "first", "second", "third"]


def test_tokens_are_counted_where_a_tokenizer_is_given(examples: list[dataset.Example]) -> None:
    found = stats.describe(examples, count_tokens=len)
    assert found["distributions"]["tokens of the story"]["maximum"] == len(STORY)


def test_the_report_is_one_inert_page_that_shows_every_number(examples: list[dataset.Example]) -> None:
    found = stats.describe(examples)
    text = report(json.loads(json.dumps(found)), "A <b>title</b>")
    assert "<b>title" not in text
    assert "http" not in text.replace("http-equiv", "")
    assert "<script" not in text
    assert text.count("<figure>") == text.count("<svg") == len(found["distributions"]) + 7
    assert ">100.0% of 1<" in text  # she
    # no bar extends beyond its chart
    for x, width in re.findall(r'<rect class="s\d" x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', text):
        assert float(x) + float(width) <= 560


def test_a_data_set_without_stories_is_a_page_too() -> None:
    found = stats.describe([])
    assert found["stories"] == 0
    assert "0 stories" in report(found, "Nothing")


def test_the_verb_writes_the_page_and_its_json(examples: list[dataset.Example], tmp_path: Path) -> None:
    import typer
    from typer.testing import CliRunner

    from storyreason.cli import page as cli
    from storyreason.errors import DataError

    dataset.write(examples[:1], tmp_path / "data", "train")
    app = typer.Typer()
    app.command()(cli.stats)
    result = CliRunner().invoke(app, [str(tmp_path / "data"), "--out", str(tmp_path / "out/report.html")])
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "out/report.json").read_text())["stories"] == 1
    assert "data: train stories" in (tmp_path / "out/report.html").read_text()
    result = CliRunner().invoke(app, [str(tmp_path / "data"), "--out", str(tmp_path / "out")])
    assert isinstance(result.exception, DataError)
    assert "ends in .html" in str(result.exception)
