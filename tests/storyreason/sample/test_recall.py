"""Lessons of looking back: what is asked stands in the text, and nowhere else."""

import random
import re

import pytest

from storyreason.sample import recall
from storyreason.sample.lessons import Lesson
from storyreason.sample.recall import CHARACTERS_PER_TOKEN, a_text, marking, nonsense, recalling
from storyreason.sample.world import looks

LUCK = random.Random(1)
SIZES = (128, 256, 512, 1024)


def _before(lesson: Lesson, turn: int) -> str:
    """What is read before the answer of a turn is written."""
    read = "\n".join(text for past in lesson.turns[:turn] for text in (past.question, past.given, past.answer))
    return f"{read}\n{lesson.turns[turn].question}\n{lesson.turns[turn].given}"


@pytest.mark.parametrize("size", SIZES)
def test_texts_are_not_longer_than_asked_and_seldom_much_shorter(size: int) -> None:
    lengths = [sum(len(text) for turn in a_text(size, LUCK).turns for text in turn) for _ in range(60)]
    assert max(lengths) <= CHARACTERS_PER_TOKEN * size
    assert sum(lengths) / len(lengths) > 0.6 * CHARACTERS_PER_TOKEN * size


@pytest.mark.parametrize(
    "kind",
    [recall._copy, recall._cycle, recall._notes, recall._rows, recall._shelves, recall._marked, recall._visits],
)
def test_the_words_of_an_answer_were_read_before(kind: object) -> None:
    links = {"has", "shows", "and", "is", "p", "item"}
    for characters in (200, 800, 2400):
        for _ in range(20):
            lesson = Lesson((), kind(characters, LUCK))  # type: ignore[operator]
            for number, turn in enumerate(lesson.turns):
                read = set(re.findall(r"\w+", _before(lesson, number)))
                assert set(re.findall(r"\w+", turn.answer)) <= read | links


def test_each_place_is_told_with_what_was_put_there() -> None:
    for _ in range(100):
        turns = recall._shelves(900, LUCK)
        blocks = re.split(r"\n(?=[A-Z][a-z]+ [0-9]+$)", turns[0].given.strip(), flags=re.MULTILINE)
        put = {block.split("\n")[0]: block.split("\n")[1:] for block in blocks}
        told = turns[-1].answer.splitlines()
        assert {re.match(r"[A-Z][a-z]+ [0-9]+", line)[0] for line in told} == set(put)  # type: ignore[index]
        for line in told:
            place = re.match(r"[A-Z][a-z]+ [0-9]+", line)[0]  # type: ignore[index]
            keys = [re.split(r"; |, | / | \| ", row.removeprefix("| "))[0] for row in put[place]]
            assert [key for key in keys if re.search(rf"(?<!\w){re.escape(key)}(?!\w)", line)] == keys


def test_every_name_is_marked_and_a_key_has_one_name() -> None:
    for _ in range(50):
        (turn,) = recall._marked(900, LUCK)
        rows = [
            re.split(r"; |: | \| ", line.removeprefix("| ").removesuffix(" |"))[:2]
            for line in turn.given.split("\n")
            if line
        ]
        marked = re.findall(r"<(?:p |item )?([^>/]+)>([^<]+)</", turn.answer)
        assert marked[0] in map(tuple, rows)
        assert set(marked) == set(map(tuple, rows))


def test_a_visit_marks_all_who_are_at_the_place_and_no_one_else() -> None:
    for characters in (300, 900, 2400):
        for _ in range(30):
            (turn,), marked = recall.placed(characters, LUCK)
            text = turn.given + turn.answer
            heads = [*recall.PLACE_HEAD.finditer(text)]
            count = len(heads) // 2
            assert [int(head[1]) for head in heads] == [*range(1, count + 1)] * 2
            ends = [head.start() for head in heads[1:]] + [len(text)]
            parts = [text[head.end() : end] for head, end in zip(heads, ends, strict=True)]
            found = iter(marked)
            for rows, visit in zip(parts[:count], parts[count:], strict=True):
                keys = {re.split(r"; |: | \| ", row.removeprefix("| "))[0] for row in rows.split("\n") if row}
                told = re.findall(r"<(?:p |item )?([^>/]+)>[^<]+</", visit)
                assert set(told) == keys
                for key in told:
                    offset, here = next(found)
                    assert turn.answer[offset:].startswith(f"{key}>")
                    assert here == keys
            assert next(found, None) is None


def test_lists_are_numbered_to_their_end() -> None:
    for _ in range(50):
        numbered, how_many = recall._numbered(400, LUCK)
        lines = numbered.question.splitlines()[1:]
        assert how_many.answer == str(len(lines)) == str(len(numbered.answer.splitlines()))
        for number, (line, told) in enumerate(zip(lines, numbered.answer.splitlines(), strict=True), 1):
            assert told.endswith(line)
            assert str(number) in told.removesuffix(line)


def test_only_people_of_the_train_split_are_named() -> None:
    known = {str(look) for look in looks("test")} - {str(look) for look in looks("train")}
    text = "\n".join(text for _ in range(300) for turn in a_text(512, LUCK).turns for text in turn)
    for look in known:
        assert not re.search(rf"{look}(?! and a \w+ hat)", text), look


def _count(text: str) -> int:
    return len(re.findall(r"\w+|[^\w\s]", text))


@pytest.mark.parametrize("back", [50, 200, 800])
def test_what_is_to_be_repeated_stands_at_the_distance(back: int) -> None:
    turn, wanted = recalling(back, _count, LUCK)
    asked = f"{turn.question}{turn.answer}"
    assert asked.count(wanted) == 2
    assert turn.answer.count(wanted) == 1
    between = asked[asked.index(wanted) : asked.rindex(wanted)]
    assert back - 12 <= _count(between) <= back + 12


@pytest.mark.parametrize("back", [50, 200, 800])
def test_a_name_to_be_marked_stands_at_about_the_distance_beside_its_key(back: int) -> None:
    for _ in range(20):
        turn, wanted = marking(back, _count, LUCK)
        first = turn.given.split("\n")[0]
        key = first.removeprefix("| ").split(" | ")[0]
        assert first == f"| {key} | {wanted} |"
        assert f"{key}>{wanted}</" in turn.answer
        assert turn.given.count(f"| {key} |") == 1
        assert back - 12 <= _count(turn.given) <= 1.5 * back + 12


def test_nonsense_is_no_word_of_the_world() -> None:
    assert all(re.fullmatch("([bdfgklmnprstvz][aeiou]){2,3}", nonsense(LUCK)) for _ in range(100))
