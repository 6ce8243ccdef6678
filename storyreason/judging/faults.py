"""Right stories with a known number of faults, which a judge that can be trusted rates lower the more there are.

| fault | what is wrong |
|---|---|
| `phantom-entity` | a person whom no image shows |
| `swapped-identity` | two people have each other's ID in the mentions of an image |
| `wrong-action` | somebody does what the image does not show |
| `wrong-image` | what is told of an image is told of another one, and the other way round |
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations, cycle

from storyreason.format import story
from storyreason.format.kinds import kind_of
from storyreason.format.story import Mention, Passage, Story

COUNTS = (0, 1, 2, 4)
"""How many faults the versions of a story have."""
STRANGERS = ("Ludmila", "Anselm", "Philippa", "Barnaby", "Wilhelmina", "Casimir")
ACTIONS = (
    "rode an elephant through the wall", "fell asleep upside down", "swam under the frozen sea", "set fire to a piano",
    "flew out of the window", "juggled seven burning torches",
)  # fmt: skip

Passages = list[Passage]


def plant(text: str, count: int, seed: int) -> str | None:
    """A story with so many faults, of kinds in turn; None if it cannot have them. The same arguments give the same story."""
    told, _ = story.read(text)
    chance = random.Random(f"{seed} {text}")
    passages, planted, used = list(told.passages), 0, dict.fromkeys(FAULTS, 0)
    kinds = list(FAULTS)
    chance.shuffle(kinds)
    missed = 0
    for kind in cycle(kinds):
        if planted == count:
            break
        made = FAULTS[kind](passages, used[kind], chance)
        if made is None:
            missed += 1
            if missed == len(kinds):
                return None
            continue
        passages, planted, missed = made, planted + 1, 0
        used[kind] += 1
    return story.render(Story(tuple(passages)))


def _phantom(passages: Passages, before: int, chance: random.Random) -> Passages | None:
    said = story.render(Story(tuple(passages)))
    strangers = [name for name in STRANGERS if name not in said]
    if not passages or not strangers:
        return None
    place, stranger, number = chance.randrange(len(passages)), chance.choice(strangers), 91 + before
    more = (" Beside them stood ", Mention("gdo", (f"char{number}",), stranger), ", laughing.")
    return _with(passages, place, replace(passages[place], parts=(*passages[place].parts, *more)))


def _swapped(passages: Passages, before: int, chance: random.Random) -> Passages | None:
    found = [
        (place, pair)
        for place, passage in enumerate(passages)
        for pair in combinations(sorted({part.ids[0] for part in _mentions(passage) if _is_person(part)}), 2)
    ]
    if before or not found:  # the same again would undo it
        return None
    place, (one, two) = chance.choice(found)
    instead = {one: two, two: one}

    def exchanged(part: str | Mention) -> str | Mention:
        return part if isinstance(part, str) else replace(part, ids=tuple(instead.get(id, id) for id in part.ids))

    return _with(passages, place, replace(passages[place], parts=tuple(map(exchanged, passages[place].parts))))


def _action(passages: Passages, before: int, chance: random.Random) -> Passages | None:
    places = [
        (place, number)
        for place, passage in enumerate(passages)
        for number, part in enumerate(passage.parts)
        if isinstance(part, Mention) and part.kind == "gda" and part.text not in ACTIONS
    ]
    said = story.render(Story(tuple(passages)))
    actions = [action for action in ACTIONS if action not in said]
    if not places or not actions:
        return None
    place, number = chance.choice(places)
    parts = list(passages[place].parts)
    mention = parts[number]
    assert isinstance(mention, Mention)
    parts[number] = replace(mention, text=chance.choice(actions))
    return _with(passages, place, replace(passages[place], parts=tuple(parts)))


def _exchanged(passages: Passages, before: int, chance: random.Random) -> Passages | None:
    """Images 1 and 2 change places the first time, then 3 and 4: each is exchanged once."""
    if len(passages) < 2 * before + 2:
        return None
    one, two = 2 * before, 2 * before + 1
    first, second = passages[one], passages[two]
    return _with(_with(passages, one, replace(first, parts=second.parts)), two, replace(second, parts=first.parts))


Plant = Callable[[Passages, int, random.Random], Passages | None]
FAULTS: Mapping[str, Plant] = {
    "phantom-entity": _phantom,
    "swapped-identity": _swapped,
    "wrong-action": _action,
    "wrong-image": _exchanged,
}
"""Each takes the passages, how often it was planted before, and chance; None if it cannot be planted."""


def _mentions(passage: Passage) -> Sequence[Mention]:
    return [part for part in passage.parts if isinstance(part, Mention)]


def _is_person(part: Mention) -> bool:
    return part.kind == "gdo" and len(part.ids) == 1 and kind_of(part.ids[0]) == "char"


def _with(passages: Passages, place: int, passage: Passage) -> Passages:
    return [*passages[:place], passage, *passages[place + 1 :]]
