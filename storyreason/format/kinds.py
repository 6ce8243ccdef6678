"""The kinds of entities: what an ID says its entity is, in which table it stands, which tag mentions it."""

from typing import Literal, NamedTuple, get_args

Kind = Literal["char", "obj", "lm", "bg"]
"""The letters that an ID begins with."""
TableName = Literal["characters", "objects", "settings", "phases"]


class EntityKind(NamedTuple):
    """One kind of entity. `tag` mentions an entity of the kind by name; actions of any kind are in `gda`."""

    singular: str
    plural: str
    table: TableName
    tag: Literal["gdo", "gdl"]


KINDS: dict[Kind, EntityKind] = {
    "char": EntityKind("character", "characters", "characters", "gdo"),
    "obj": EntityKind("thing", "things", "objects", "gdo"),
    "lm": EntityKind("landmark", "landmarks", "objects", "gdl"),
    "bg": EntityKind("background", "backgrounds", "objects", "gdl"),
}
"""Every kind, in the order in which tables, charts and pages show them."""
assert tuple(KINDS) == get_args(Kind)

ID = rf"({'|'.join(KINDS)})[0-9]{{1,9}}"
"""A well-formed ID as a regular expression; its first group is the kind."""
OTHER = "other"
"""In counts by kind: an ID that says none."""
_DIGITS = "0123456789"


def kind_of(id: str) -> Kind | None:
    """What an ID says its entity is: `lm2` is a landmark. None for an ID that says nothing, such as `Sarah`.

    >>> kind_of("lm2"), kind_of("Sarah")
    ('lm', None)
    """
    prefix = id.rstrip(_DIGITS)
    return prefix if prefix in KINDS else None


def sort_key(id: str) -> tuple[int, str, int, str]:
    """Orders IDs as people read them: char2, char10, obj1, lm1, bg1, then IDs of no kind.

    >>> sorted(["bg1", "char10", "x", "char2"], key=sort_key)
    ['char2', 'char10', 'bg1', 'x']
    """
    prefix = id.rstrip(_DIGITS)
    digits = id[len(prefix) :]
    # int() refuses more than 4300 digits; an ID of more than nine is malformed in any case.
    order = list(KINDS).index(kind) if (kind := kind_of(id)) else len(KINDS)
    return order, prefix, int(digits[-9:] or 0), id


def kinds_in(table: TableName) -> tuple[Kind, ...]:
    """The kinds of the entities that stand in a table.

    >>> kinds_in("objects")
    ('obj', 'lm', 'bg')
    """
    return tuple(name for name, kind in KINDS.items() if kind.table == table)
