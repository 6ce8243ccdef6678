"""Lessons of looking back into one's own text, without pictures: to repeat, to look up, to go through a list to its end.

A model of this size learns from frames to see, and not to read: tuned on stories, it forgot its own tables. These lessons
have other layouts than an analysis: notes, shelves, lists and rows, with semicolons or as Markdown and XML have them, whose
words are drawn at random, so that only looking back can tell them.
"""

import json
import random
import re
from collections.abc import Callable, Sequence

from storyreason.sample.lessons import MARKDOWN, Lesson, Turn, a_row
from storyreason.sample.world import COLOURS, HAIR, LANDMARKS, NAMES, PLACES, THINGS, looks, things

_WORDS = (
    *COLOURS, *HAIR, *THINGS, *LANDMARKS, *(place.name for place in PLACES), *(place.phrase for place in PLACES),
    "coat", "straw hat", "top hat", "woman", "man", "near", "beside", "above", "sky", "early", "late", "old", "new",
    "small", "long", "soft", "loud", "first", "last", "left", "right",
)  # fmt: skip
_NAMES = tuple(name for names in NAMES.values() for name in names)
_PLACES = ("Shelf", "Room", "Day", "Page", "Box", "Street", "Row", "Station")
PLACE_HEAD = re.compile(rf"^(?:# |<)?(?:{'|'.join(_PLACES)}) ([0-9])", re.MULTILINE | re.IGNORECASE)
"""The heading of a place in any of its forms, and its number."""
_COLUMNS = ("ref", "name", "colour", "place", "what", "who", "count", "mark")
CHARACTERS_PER_TOKEN = 2.0
"""A lower bound for the texts of these lessons."""


def a_text(tokens: int, luck: random.Random, easy: bool = False) -> Lesson:
    """A lesson without pictures of about `tokens` tokens. The easy ones say the same over and over, or tell of few names.

    Marked names, in rows and at places, are the most: after 200 steps with 3 in 16 such lessons, a base that had got 78 % of
    first mentions right at 400 tokens came out with 14 %, although its heads looked at the right word; what that word is after
    a mark it had unlearnt.
    """
    weights = (3, 3, 2, 0, 0, 0, 4, 2) if easy else (2, 1, 3, 3, 1, 2, 7, 7)
    kind: Callable[[int, random.Random], tuple[Turn, ...]] = luck.choices(
        (_copy, _cycle, _notes, _shelves, _numbered, _rows, _marked, _visits), weights
    )[0]
    most = CHARACTERS_PER_TOKEN * tokens
    wanted = most
    while True:
        turns = kind(round(wanted), luck)
        if sum(len(text) for turn in turns for text in turn) <= most:
            return Lesson((), turns)
        wanted *= 0.9


def nonsense(luck: random.Random) -> str:
    """A word of two or three syllables that means nothing."""
    return "".join(luck.choice("bdfgklmnprstvz") + luck.choice("aeiou") for _ in range(luck.choice((2, 2, 3))))


def _word(luck: random.Random) -> str:
    kind = luck.random()
    if kind < 0.45:
        return luck.choice(_WORDS)
    if kind < 0.6:
        return luck.choice(_NAMES)
    return nonsense(luck) if kind < 0.85 else str(luck.randrange(luck.choice((10, 200))))


def _words(characters: float, luck: random.Random) -> str:
    words = [_word(luck)]
    while sum(map(len, words)) + len(words) < characters:
        words.append(_word(luck))
    return " ".join(words)


def _value(luck: random.Random) -> str:
    kind = luck.randrange(5)
    if kind == 0:
        return str(luck.choice(looks("train")))
    if kind == 1:
        return str(luck.choice(things()))
    if kind == 2:
        return ",".join(str(luck.randrange(200)) for _ in range(4))
    return luck.choice(_NAMES) if kind == 3 else " ".join(_word(luck) for _ in range(luck.randint(1, 3)))


def _keys(count: int, luck: random.Random) -> list[str]:
    """Different keys of one style, in random order."""
    style = luck.randrange(5)
    if style == 0:
        letter = luck.choice("ABCDEFGHJKLMNPQRSTUVWXYZ")
        return [f"{letter}{number}" for number in luck.sample(range(1, max(10, count + 1)), count)]
    if style == 1:
        word = luck.choice(("no. ", "item-", "key", "p", "nr", "thing "))
        return [f"{word}{number}" for number in luck.sample(range(1, max(10, count + 1)), count)]
    keys: set[str] = set()
    while len(keys) < count:
        if style == 2:
            keys.add(luck.choice("ABCDEFGHJKLMNPQRSTUVWXYZ") + str(luck.randrange(1, 100)))
        elif style == 3:
            keys.add(nonsense(luck).capitalize())
        else:
            keys.add(f"{luck.choice(_NAMES)} {luck.choice('ABCDEFGHJKLM')}")
    return luck.sample(sorted(keys), count)


def _copy(characters: int, luck: random.Random) -> tuple[Turn, ...]:
    """A text, and the same text again, several times if it is short."""
    text = _words(characters / luck.choice((2, 2, 3, 5, 8)), luck)
    times = max(1, round(characters / (len(text) + 1)) - 1)
    if times == 1:
        return (Turn(f"Repeat: {text}", text),)
    return (Turn(f"Repeat {times} times: {text}", "\n".join([text] * times)),)


def _cycle(characters: int, luck: random.Random) -> tuple[Turn, ...]:
    """A pattern that goes on."""
    period = _words(min(characters / 3, luck.choice((12, 25, 50, 100, 200))), luck)
    link = luck.choice((" ", ", ", "; ", "\n"))
    times = max(2, characters // (len(period) + len(link)))
    return (Turn("Go on with the pattern.", link.join([period] * (times - 1)), period + link),)


def _entry(form: str, key: str, value: str) -> str:
    return form.format(key=key, value=value)


_TOLD = ("{key} = {value}", "{key}: {value}", "{key} is {value}", "[{key}]{value}", "{key}/{value}")
"""With and without a space before the value: those are different tokens, ` Leo` and `Leo`."""
_XML = ("<p {key}>{value}</p>", "<item {key}>{value}</item>", "<{key}>{value}</{key}>")
"""The tokenizer, like Qwen's, takes a word and the sign before it as one: of ` Leo`, `Leo` and `>Leo`, a base that never saw the
last was tuned to 17 % of right names in its stories' tags (that of a first mention was any name)."""
_FORMS = (
    *_TOLD,
    "{value} ({key})",
    '"{key}": "{value}"',
    "{value}, {key}",
)


def _notes(characters: int, luck: random.Random) -> tuple[Turn, ...]:
    """Keys with their values, in the question or in the own answer, and then some of them again."""
    form, told = luck.choice(_FORMS), luck.choice(_XML if luck.random() < 0.4 else _TOLD)
    values: list[str] = []
    while sum(map(len, values)) + 7 * len(values) < 0.6 * characters:
        values.append(_value(luck))
    keys = _keys(len(values), luck)
    link = luck.choice(("\n", "; ", ". "))
    notes = link.join(_entry(form, *pair) for pair in zip(keys, values, strict=True))
    asked: list[int] = []
    wanted = 0.0
    for index in luck.sample(range(len(keys)), len(keys)):
        if asked and wanted > 0.4 * characters:
            break
        asked.append(index)
        wanted += 2 * len(keys[index]) + len(values[index]) + 4
    question = f"What is {', '.join(keys[index] for index in asked)}?"
    answer = "\n".join(_entry(told, keys[index], values[index]) for index in asked)
    if luck.random() < 0.5:
        return (Turn(f"Notes: {notes}\n{question}", answer),)
    return Turn("Write notes.", "", notes), Turn(question, answer)


def _shelves(characters: int, luck: random.Random) -> tuple[Turn, ...]:
    """Numbered places with things that have a key each, some of them in several places; then place by place what is there.

    Keys are in ascending order in each place, a thing has the same key and name everywhere, and a place's list ends where
    it ended before. Sometimes the telling has another order.
    """
    count = max(1, min(luck.randint(1, 9), characters // 90))
    keys = sorted(_keys(luck.randint(2, 6), luck))
    names = {key: _value(luck) if luck.random() < 0.5 else _word(luck) for key in keys}
    shown = [sorted(luck.sample(keys, luck.randint(1, min(4, len(keys))))) for _ in range(count)]
    items = sum(map(len, shown))
    filler = max(
        0.0, 0.55 * characters / items - 2 * sum(len(names[key]) for here in shown for key in here) / items - 24
    )
    place, link = luck.choice(_PLACES), luck.choice(("; ", ", ", " / ", MARKDOWN))
    blocks = []
    for number, here in enumerate(shown, 1):
        rows = [a_row(link, [key, names[key], *([_words(filler, luck)] if filler > 4 else [])]) for key in here]
        blocks.append("\n".join((f"{place} {number}", *rows)))
    if luck.random() < 0.3:
        shown = [luck.sample(here, len(here)) for here in shown]
    form = luck.choice(
        ("{key} {value}", "{value} ({key})", "[{key}]{value}", "{key}/{value}", "{key}: {value}", "{key}", *_XML)
    )
    verb, comma = luck.choice((" has ", ": ", " shows ", " - ")), luck.choice((", ", " and ", "; ", ". "))
    told = [
        f"{place} {number}{verb}{comma.join(_entry(form, key, names[key]) for key in here)}."
        for number, here in enumerate(shown, 1)
    ]
    if luck.random() < 0.3:  # in another order
        order = luck.sample(range(count), count)
        asked = ", ".join(str(index + 1) for index in order)
        return (
            Turn(f"Fill each {place.lower()}.", "", "\n".join(blocks)),
            Turn(f"What is there? {asked}", "\n".join(told[index] for index in order)),
        )
    if luck.random() < 0.5:  # in one answer
        return (Turn(f"Fill {count}, then tell each {place.lower()}.", "\n".join(told), "\n".join(blocks) + "\n\n"),)
    return Turn(f"Fill each {place.lower()}.", "", "\n".join(blocks)), Turn("Tell what is there.", "\n".join(told))


def _numbered(characters: int, luck: random.Random) -> tuple[Turn, ...]:
    """Lines with numbers before them, to the last, and how many they are."""
    count = max(1, min(luck.randint(1, 9), characters // 16))
    lines = [_words(characters / count / 2 - 6, luck) for _ in range(count)]
    form = luck.choice(("{}. {}", "({}) {}", "No. {}: {}", "Line {}: {}"))
    numbered = "\n".join(form.format(number, line) for number, line in enumerate(lines, 1))
    return Turn("Number these lines:\n" + "\n".join(lines), numbered), Turn("How many are they?", str(count))


def _rows(characters: int, luck: random.Random) -> tuple[Turn, ...]:
    """Rows with semicolons; then some of them as JSON, or a column."""
    columns = luck.sample(_COLUMNS, luck.randint(2, 4))
    count = max(1, min(12, round(0.5 * characters / (12 * len(columns)))))
    keys = _keys(count, luck)
    table = [(key, *(_value(luck) if luck.random() < 0.3 else _word(luck) for _ in columns[1:])) for key in keys]
    link = luck.choice(("; ", MARKDOWN))
    written = "\n".join(a_row(link, row) for row in (columns, *table))
    questions: list[Turn] = []
    while sum(len(turn.answer) for turn in questions) < 0.4 * characters and len(questions) < 6:
        if luck.random() < 0.3:
            column = luck.randrange(len(columns))
            questions.append(Turn(f"List {columns[column]}.", ", ".join(row[column] for row in table)))
        else:
            chosen = luck.sample(table, min(count, 3))
            asked = ", ".join(row[0] for row in chosen)
            questions.append(Turn(f"{asked} as JSON.", "\n".join(_as_json(columns, row) for row in chosen)))
    return Turn("Make a list.", "", written), *questions


def _marked(characters: int, luck: random.Random) -> tuple[Turn, ...]:
    """Rows of names, then a text in which keys mark their names, at first once each, then in any order."""
    form, link = luck.choice(_XML), luck.choice(("; ", ": ", MARKDOWN, MARKDOWN))
    count = max(2, min(luck.randint(2, 12), characters // 60))
    keys = _keys(count, luck)
    names = [luck.choice(_NAMES) if luck.random() < 0.8 else str(luck.choice(things())) for _ in keys]
    filler = max(0.0, 0.4 * characters / count - 16)
    rows = [
        a_row(link, [key, name, *([_words(filler, luck)] if filler > 4 else [])])
        for key, name in zip(keys, names, strict=True)
    ]
    order, told = luck.sample(range(count), count), ""
    while len(told) < 0.5 * characters:
        index = order.pop() if order else luck.randrange(count)
        told += _entry(form, keys[index], names[index]) + luck.choice((" ", " ", ", ", " and ", ".\n"))
    return (Turn("Write who is who, then tell of them.", told.strip(), "\n".join(rows) + "\n\n"),)


def _visits(characters: int, luck: random.Random) -> tuple[Turn, ...]:
    """Numbered places with who is there, and then a visit to each, which marks them in any order, and no one else."""
    return placed(characters, luck)[0]


def placed(
    characters: int, luck: random.Random, keys: Sequence[str] = ()
) -> tuple[tuple[Turn, ...], list[tuple[int, set[str]]]]:
    """The turn of `_visits`, and where its answer marks a key [characters], with all keys that stand at that place."""
    count = max(1, min(luck.randint(2, 7), characters // 110))
    keys = keys or _keys(luck.randint(3, 8), luck)
    names = {key: luck.choice(_NAMES) if luck.random() < 0.7 else str(luck.choice(things())) for key in keys}
    shown = [sorted(luck.sample(keys, luck.randint(1, min(4, len(keys) - 1)))) for _ in range(count)]
    place, link = luck.choice(_PLACES), luck.choice(("; ", ": ", MARKDOWN, MARKDOWN))
    filler = 0.5 * characters / sum(map(len, shown)) - 24
    told, marked = "", list[tuple[int, set[str]]]()
    head, form = luck.choice(("{} {}: ", "<{} {}> ", "{} {}\n")), luck.choice(_XML)
    blocks, sharp = [], luck.choice(("", "# "))
    for number, here in enumerate(shown, 1):
        rows = [a_row(link, [key, names[key], *([_words(filler, luck)] if filler > 4 else [])]) for key in here]
        blocks.append("\n".join((f"{sharp}{place} {number}", *rows)))
        told += head.format(place.lower() if head[0] == "<" else place, number)
        again = luck.choices(here, k=luck.randrange(3))
        for key in luck.sample([*here, *again], len(here) + len(again)):
            marked.append((len(told) + form.index("{key}"), set(here)))
            told += _entry(form, key, names[key]) + luck.choice((" ", ", ", " and ", ". "))
        told += "\n"
    return (Turn(f"Fill each {place.lower()}, then visit it.", told.strip(), "\n".join(blocks) + "\n\n"),), marked


def _as_json(columns: Sequence[str], row: Sequence[str]) -> str:
    return json.dumps(dict(zip(columns, row, strict=True)))


def recalling(back: int, count: Callable[[str], int], luck: random.Random) -> tuple[Turn, str]:
    """A turn whose answer repeats a note from about `back` tokens before, and what is repeated.

    `count` says how many tokens a text has. The words are nonsense, the key is asked for only once.
    """
    wanted = " ".join(nonsense(luck) for _ in range(3))
    key, *others = _distinct(2 + back // 4, luck)
    notes, question = f"{key}: {wanted}.", f"\nWhat is {key}?"
    between = count(f"{wanted}.{question}") + count(f"{key}: ") + 6  # and the chat's own tokens
    while between < back:
        note = f" {others.pop()}: {nonsense(luck)} {nonsense(luck)}."
        notes += note
        between += count(note)
    return Turn(f"Notes: {notes}{question}", f"{key}: {wanted}."), wanted


def marking(back: int, count: Callable[[str], int], luck: random.Random) -> tuple[Turn, str]:
    """A turn whose answer marks a name that stands in a row about `back` tokens before, without a mark, and that name."""
    key, *others = _keys(2 + back // 4, luck)
    wanted, told = luck.choice(_NAMES), luck.choice(_XML)
    rows = a_row(MARKDOWN, [key, wanted])
    while count(rows) < back:
        rows += "\n" + a_row(MARKDOWN, [others.pop(), luck.choice(_NAMES), _words(back / 4, luck)])
    return Turn("Write who is who, then tell of them.", _entry(told, key, wanted), f"{rows}\n\n"), wanted


def _distinct(count: int, luck: random.Random) -> list[str]:
    keys: set[str] = set()
    while len(keys) < count:
        keys.add(nonsense(luck).capitalize())
    return luck.sample(sorted(keys), count)
