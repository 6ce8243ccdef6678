"""The kinds of entities: the prefix of their IDs, their names, the table that lists them and the tag that mentions them."""

from typing import Literal, NamedTuple, get_args

Kind = Literal["char", "obj", "lm", "bg"]
"""The prefix of an ID."""
TableName = Literal["characters", "objects", "settings", "phases"]


class EntityKind(NamedTuple):
    """One kind of entity. `tag` is for mentions; actions of any kind use `gda`."""

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
"""Every kind, in the order used by tables, charts and pages."""
assert tuple(KINDS) == get_args(Kind)

ID = rf"({'|'.join(KINDS)})[0-9]{{1,9}}"
"""A well-formed ID as a regular expression; its first group is the kind."""
OTHER = "other"
"""The key for IDs without a known kind, in counts by kind."""
_DIGITS = "0123456789"


def kind_of(id: str) -> Kind | None:
    """The kind of an entity by its ID: `lm2` is a landmark. None for an ID with another prefix, such as `Sarah`.

    >>> kind_of("lm2"), kind_of("Sarah")
    ('lm', None)
    """
    prefix = id.rstrip(_DIGITS)
    return prefix if prefix in KINDS else None


def sort_key(id: str) -> tuple[int, str, int, str]:
    """Orders IDs by kind, then by number: char2, char10, obj1, lm1, bg1, then IDs without a known kind.

    >>> sorted(["bg1", "char10", "x", "char2"], key=sort_key)
    ['char2', 'char10', 'bg1', 'x']
    """
    prefix = id.rstrip(_DIGITS)
    digits = id[len(prefix) :]
    # int() rejects more than 4300 digits; IDs with more than nine are malformed anyway.
    order = list(KINDS).index(kind) if (kind := kind_of(id)) else len(KINDS)
    return order, prefix, int(digits[-9:] or 0), id


def kinds_in(table: TableName) -> tuple[Kind, ...]:
    """The kinds of entities that a table lists.

    >>> kinds_in("objects")
    ('obj', 'lm', 'bg')
    """
    return tuple(name for name, kind in KINDS.items() if kind.table == table)
