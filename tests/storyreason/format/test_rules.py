import ast
import json
import re
from pathlib import Path

import pytest

from storyreason.format import answer, rules, words
from storyreason.format.problems import Problem

ROOT = Path(__file__).parents[3]
SIZES = [(575, 240)] * 2
AGAIN = """\
### Characters
| Character ID | Name | Description | Emotions | Actions | Narrative Function | Bounding Box |
|--------------|------|-------------|----------|---------|-------------------|--------------|
| char1 | Sara | A woman with blonde hair | Curiosity | Looking at the man | Protagonist | 13,69,150,239 |
"""

ANSWER = """\
<think>
## Image 1

### Characters
| Character ID | Name | Description | Emotions | Actions | Narrative Function | Bounding Box |
|--------------|------|-------------|----------|---------|-------------------|--------------|
| char1 | Sarah | A woman with blonde hair | Curiosity | Looking at the man | Protagonist | 13,69,150,239 |

### Objects
| Object ID | Description | Function | Interaction | Narrative Function | Bounding Box |
|-----------|-------------|----------|------------|-------------------|--------------|
| obj1 | Tie | Accessory | Worn by John | Establishes his character | 294,135,318,185 |
| lm1 | Tower | - | - | - | 0,0,575,240 |

### Setting
| Setting Element | Description | Mood | Time | Narrative Function |
|-----------------|-------------|------|------|-------------------|
| Location | A warehouse with metal beams | Tense | Night | Establishes the scene |

## Image 2

### Objects
| Object ID | Description | Function | Interaction | Narrative Function | Bounding Box |
|-----------|-------------|----------|------------|-------------------|--------------|
| obj1 | Tie | Accessory | Worn by John | Establishes his character | 294,135,318,185 |

### Setting
| Setting Element | Description | Mood | Time | Narrative Function |
|-----------------|-------------|------|------|-------------------|
| Lighting | Dim | Tense | Night | Establishes the scene |

## Narrative Structure

| Narrative Phase | Description | Key Events | Images |
|-----------------|-------------|-----------|--------|
| Introduction | a | b | 1 |
| Development | a | b | 1 |
| Conflict | a | b | 1-2 |
| Turning Point | a | b | 2 |
| Conclusion | a | b | 2 |
</think>
<gdi image1>
<gdo char1>Sarah</gdo> <gda char1>saw</gda> <gdo obj1>the tie</gdo> below <gdl lm1>the tower</gdl>.
</gdi>

<gdi image2>
Alone lay <gdo obj1>the tie</gdo>.
</gdi>"""


def check(text: str) -> list[Problem]:
    return rules.check(answer.read(text), SIZES)


def test_a_good_answer_breaks_no_rule() -> None:
    assert check(ANSWER) == []
    assert rules.is_valid([])


def test_an_answer_to_no_images_at_all_is_measured_by_itself() -> None:
    assert rules.check(answer.read(ANSWER), None) == []


# rule -> what to change in the good answer, into what, and the text at the problem's place
BREAKS = {
    "answer-unreadable": ("<think>\n", "", "## "),
    "answer-truncated": (ANSWER[ANSWER.index("</think>") :], "", ""),
    "image-sections": ("## Image 2", "## Image 3", "## Image 3"),
    "story-images": ("<gdi image2>", "<gdi image1>", "<gdi image1>\nAlone"),
    "table-shape": ("| Tower | - |", "| Tower |", "lm1"),
    "table-head": ("| Setting Element | Description | Mood | Time | Narrative Function |\n", "", "Location"),
    "table-repeated": ("## Image 2", "### Objects\n## Image 2", "### Objects"),
    "id-malformed": ("| char1 |", "| Sarah |", "Sarah"),
    "id-repeated": ("| lm1 |", "| obj1 |", "obj1 | Tower"),
    "box-unreadable": ("13,69,150,239", "13,69,150", "13,69,150 |"),
    "box-inverted": ("13,69,150,239", "150,69,13,239", "150,69,13,239 |"),
    "box-outside": ("13,69,150,239", "13,69,150,265", "13,69,150,265 |"),
    "setting-missing": ("| Lighting | Dim | Tense | Night | Establishes the scene |", "", "## Image 2"),
    "phase-missing": ("| Conflict | a | b | 1-2 |", "", "Introduction"),
    "phase-images": ("| 1-2 |", "| 1-3 |", "1-3 |"),
    "id-unknown": ("<gda char1>", "<gda char2>", "<gda char2>"),
    "id-absent": ("Alone", "Alone <gdo char1>she</gdo>", "<gdo char1>she"),
    "tag-malformed": ("below", "below <gdo lm1", "<gdo lm1 <gdl"),
    "tag-unclosed": ("the tower</gdl>", "the tower", "<gdl lm1>"),
    "tag-nested": ("the tower</gdl>", "the <gdo obj1>tower</gdo></gdl>", "<gdo obj1>tower"),
    "text-outside-image": ("<gdi image1>", "Once.\n<gdi image1>", "Once."),
    "analysis-text": ("## Image 2", "And then:\n## Image 2", "And then:"),
    "box-over-edge": ("13,69,150,239", "13,69,150,264", "13,69,150,264 |"),
    "setting-element": ("| Lighting", "| Light", "Light |"),
    "phase-name": ("| Conflict", "| Climax | a | b | 1 |\n| Conflict", "Climax"),
    "tag-kind": ("<gdl lm1>the tower</gdl>", "<gdo lm1>the tower</gdo>", "<gdo lm1>"),
    "pronoun-untagged": ("Alone", "Alone without her", "her lay"),
    "name-untagged": ("Alone", "Without Sarah", "Sarah lay"),
    "name-changed": ("## Image 2\n", f"## Image 2\n\n{AGAIN}\n", "Sara |"),
    "name-foreign": ("Sarah</gdo>", "Old Anna</gdo>", "<gdo char1>Old Anna"),
}  # fmt: skip


@pytest.mark.parametrize("rule", BREAKS)
def test_a_broken_rule_is_named_with_its_place(rule: str) -> None:
    old, new, at = BREAKS[rule]
    broken = ANSWER.replace(old, new, 1)
    assert broken != ANSWER

    problems = check(broken)

    told = next(problem for problem in problems if problem.rule == rule)
    line = broken.split("\n")[told.line - 1 :]
    assert "\n".join(line)[told.column - 1 :].startswith(at)
    assert told.message.endswith(".")
    assert rules.is_valid(problems) == (rules.RULES[rule].severity == "warning")
    assert rules.is_valid(problems, grounded=True) == (rules.severity(rule, grounded=True) == "warning")


def test_every_rule_has_a_case_and_every_name_in_the_code_is_a_rule() -> None:
    assert set(BREAKS) == set(rules.RULES)
    for name in ("analysis", "story", "answer", "rules"):
        tree = ast.parse((ROOT / "storyreason" / "format" / f"{name}.py").read_text())
        told = {
            node.value
            for call in ast.walk(tree)
            if isinstance(call, ast.Call)
            for node in call.args[:1]
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and re.fullmatch(r"[a-z]+(-[a-z]+)+", node.value)
        }
        assert told <= set(rules.RULES)


def test_problems_come_in_the_order_of_the_text() -> None:
    problems = check(
        ANSWER.replace("13,69,150,239", "1,1,1,1").replace("Alone", "Alone, I").replace("Conflict", "Climax")
    )
    assert [problem.rule for problem in problems] == [
        "box-inverted", "phase-missing", "phase-name", "pronoun-untagged",
    ]  # fmt: skip


def test_published_irregularities_are_warnings_alone() -> None:
    text = ANSWER.replace("lm1", "bg1").replace("<gdl bg1>the tower</gdl>", "<gdo bg1>the sky</gdo> above her")
    problems = check(text.replace("<gdi image1>", "<gdi image 1>").replace("\n", "\r\n"))
    assert {problem.rule for problem in problems} == {"tag-kind", "pronoun-untagged"}
    assert rules.is_valid(problems)


HEADS = {
    "no columns": (r"^\| Setting Element .*\n", "", 1),
    "no separator": (r"(?<=Narrative Function \|\n)\|-[-|]*\n", "", 1),
    "neither": (r"^\| Narrative Phase .*\n\|[-|]*\n", "", 1),
    "anywhere": (r"^\|-[-|]*\n", "", 6),
}


@pytest.mark.parametrize("missing", HEADS)
def test_a_table_without_its_head_is_invalid_and_still_read(missing: str) -> None:
    what, instead, tables = HEADS[missing]
    broken = re.sub(what, instead, ANSWER, count=tables, flags=re.MULTILINE)

    problems = check(broken)

    assert [problem.rule for problem in problems] == ["table-head"] * tables  # once for each table, not for each row
    assert not rules.is_valid(problems)
    assert answer.read(broken).analysis == answer.read(ANSWER).analysis


SETTING = ANSWER[ANSWER.index("### Setting") : ANSWER.index("## Image 2")]
NARRATIVE = ANSWER[ANSWER.index("## Narrative") : ANSWER.index("</think>")]


@pytest.mark.parametrize(
    ("place", "again"),
    [
        ("## Image 2", SETTING),
        ("## Image 2", SETTING.replace("### Setting\n", "")),  # a second head below one heading
        ("## Image 2", SETTING.replace("### Setting", "### Settings")),
        ("</think>", NARRATIVE),
        ("## Image 2", NARRATIVE),
    ],
)
def test_a_second_table_of_a_kind_is_invalid(place: str, again: str) -> None:
    problems = check(ANSWER.replace(place, again + place))
    assert [problem.rule for problem in problems] == ["table-repeated"]
    assert not rules.is_valid(problems)


def test_the_golden_references_are_valid() -> None:
    for story in json.loads((ROOT / "tests" / "golden" / "paper_protocol.json").read_text())["stories"]:
        text = answer.join(story["chain_of_thought"], story["story"])
        assert rules.is_valid(rules.check(answer.read(text), story["image_sizes"]))


def test_names_are_split_once_whatever_the_passages(monkeypatch: pytest.MonkeyPatch) -> None:
    split: list[str] = []

    def words_of(name: str) -> tuple[str, ...]:
        split.append(name)
        return (name,)

    monkeypatch.setattr(words, "_words_of", words_of)
    rows = "".join(f"| char{n} | N{n} | a | b | c | d | 1,1,2,2 |\n" for n in range(50))
    head = "| Character ID | Name | Description | Emotions | Actions | Narrative Function | Bounding Box |\n"
    table = f"### Characters\n{head}|---|---|---|---|---|---|---|\n{rows}"
    rules.check(answer.read(f"<think>\n## Image 1\n{table}</think>\n" + "<gdi image1>He.</gdi>\n" * 50), None)
    assert 0 < len(split) <= 2 * 50  # once for the names outside of tags, once for those inside


# What reads one of these in quadratic time hangs the suite; benchmarks/scoring.py gives the seconds for a megabyte.
HOSTILE = {
    "pipes": "<think>\n## Image 1\n### Characters\n" + "|" * 10**6,
    "lines of pipes": "<think>\n## Image 1\n### Characters\n" + "|\n" * 500_000,
    "escaped pipes": "<think>\n## Image 1\n### Characters\n" + "\\|" * 500_000,
    "rows": "<think>\n## Image 1\n### Setting\n" + "|a|b|c|d|e|\n" * 80_000,
    "headings": "<think>\n" + "## Image 1\n" * 90_000,
    "digits": "<think>\n## Image " + "9" * 10**6,
    "digits in a box": "<think>\n## Image 1\n### Objects\n|a|b|c|d|e|1,2,3," + "9" * 10**6 + "|\n",
    "ranges": "<think>\n## Narrative Structure\n|a|b|c|" + "1-999," * 160_000 + "|\n",
    "rows of ranges": "<think>\n## Image 1\n## Narrative Structure\n" + "|a|b|c|1-999,1-999|\n" * 50_000,
    "opened tags": "<think>\n## Image 1\n</think>\n" + "<gdo a>" * 140_000,
    "opened passages": "<think>\n## Image 1\n</think>\n" + "<gdi image1>" * 80_000,
    "nested tags": "<think>\n## Image 1\n</think>\n<gdi image1>" + "<gdo a>" * 19_000 + "</gdo>" * 19_000,
    "closed tags": "<think>\n## Image 1\n</think>\n" + "</gdo>" * 160_000,
    "begun tags": "<think>\n## Image 1\n</think>\n" + "<gdo " * 200_000,
    "a tag without end": "<think>\n## Image 1\n</think>\n<gdo " + "a" * 10**6,
    "begun markers": "<think" * 160_000,
    "pronouns": "<think>\n## Image 1\n</think>\n<gdi image1>" + "she " * 250_000 + "</gdi>",
    "one letter": "a" * 10**6,
    "nothing": " " * 10**6,
    "lines": "<think>" + "\n" * 10**6,
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_nonsense_is_read_in_linear_time(kind: str) -> None:
    text = HOSTILE[kind][:250_000]
    read = answer.read(text)
    problems = rules.check(read, SIZES)
    assert not rules.is_valid(problems)
    # The list of problems stays short enough to be shown.
    assert len(problems) <= 1000 * len(rules.RULES)

    reader = answer.Reader()
    for start in range(0, len(text), 50):
        reader.feed(text[start : start + 50])
    assert reader.close() == read
