"""The title of a story: what happens in it, by its own analysis."""

from collections.abc import Sequence

from storyreason.format.analysis import Analysis, Section
from storyreason.format.words import is_name

TELLING = ("Conflict", "Turning Point", "Development", "Introduction", "Conclusion")
"""Phases by how much their description says of a story."""
LONGEST = 90
"""Characters of a title, at most."""


def title(analysis: Analysis | None) -> str:
    """Its people and what happens to them: `Mara and Tom: the red kite is gone`. While there are no phases yet, the place:
    `Mara and Tom: the harbour`."""
    if analysis is None or not analysis.sections:
        return "A story"
    people = _people(analysis.sections)
    phases = {phase.name: phase.description.strip(" .") for phase in analysis.phases}
    said = next((text for name in TELLING if (text := phases.get(name, "")).strip("-–")), "") or _place(
        analysis.sections
    )
    if not people or not said:
        return _cut(people or said or "A story")
    named = any(name in said for name in people.replace(" and ", ", ").split(", "))
    return _cut(said[0].upper() + said[1:] if named else f"{people}: {_uncapitalized(said)}")


def _people(sections: Sequence[Section]) -> str:
    """`Mara and Tom`, each person by the first name given; of many people the first three."""
    first: dict[str, str] = {}
    for section in sections:
        for row in section.characters:
            if is_name(row.name):
                first.setdefault(row.id, row.name)
    names = list(dict.fromkeys(first.values()))
    if len(names) > 4:
        names = [*names[:3], f"{len(names) - 3} more"]
    return " and ".join([*([", ".join(names[:-1])] if names[1:] else []), *names[-1:]])


def _place(sections: Sequence[Section]) -> str:
    rows = (row for section in sections for row in section.settings)
    return next((row.description for row in rows if row.element == "Location" and row.description.strip(" -–")), "")


def _uncapitalized(text: str) -> str:
    """`The kite is gone` goes on after a colon as `the kite is gone`."""
    first, _, rest = text.partition(" ")
    return f"{first.lower()} {rest}" if (rest and first[1:].islower()) or first in ("A", "I") else text


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1].rstrip() + "…"
