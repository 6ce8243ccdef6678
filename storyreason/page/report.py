"""The statistics of a data set (`storyreason.dataset.stats`) as one page with numbers, charts and tables."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from storyreason.dataset.stats import DRIFT_STEP
from storyreason.format.kinds import KINDS
from storyreason.page import charts
from storyreason.page.html import fill

Json = dict[str, Any]
Table = tuple[Sequence[str], Sequence[Sequence[object]]]
"""Column headings and rows."""

TAGS = {"gdo": "characters and objects", "gda": "actions", "gdl": "places"}
LONG = 5
"""Entities in this many images or more are persistent."""


def report(statistics: Json, title: str) -> str:
    """One self-contained HTML page for the result of `stats.describe`."""
    totals = statistics["totals"]
    tiles = {"stories": statistics["stories"], "images": totals.get("images", 0)}
    tiles |= {name: totals.get(name, 0) for name in (*(kind.plural for kind in KINDS.values()), "mentions", "words")}
    unreadable = statistics["unreadable"]
    left_out = f" {unreadable} of them are unreadable and left out." if unreadable else ""
    body = (
        f'<main class="wide"><section class="head"><h1>{escape(title)}</h1>'
        f'<p class="soft">{statistics["stories"]:,} stories.{left_out}</p></section>'
        f'<dl class="tiles">{"".join(f"<div><dt>{name}</dt><dd>{value:,}</dd></div>" for name, value in tiles.items())}</dl>'
        f'<div class="charts">{"".join(_sections(statistics))}</div></main>'
    )
    return fill(title, body, ("base.css", "report.css"))


def _sections(statistics: Json) -> list[str]:
    sizes = [_distribution(name, found) for name, found in statistics["distributions"].items()]
    return [
        "<h2>Counts</h2>",
        f'<div class="small">{"".join(sizes)}</div>',
        "<h2>Entities across images</h2>",
        _across("analysis", statistics["across"]["analysis"], "Number of images in whose tables an entity appears"),
        _across("story", statistics["across"]["story"], "Number of images whose text mentions an entity"),
        _transitions(statistics["transitions"]),
        _drift(statistics["drift"]),
        "<h2>Grounded words</h2>",
        _pronouns(statistics["pronouns"]),
        _by_person(statistics["pronouns"], statistics["names"]),
        _phases(statistics["phases"]),
    ]


def _distribution(name: str, found: Json) -> str:
    counts = {int(value): count for value, count in found["counts"].items()}
    said = f"Median {found['median']:,}, mean {found['mean']:,.1f}, range {found['minimum']:,} to {found['maximum']:,}."
    shown = name[0].upper() + name[1:]
    return _figure(shown, said, charts.columns({"": counts}, shown), (("", ""), list(counts.items())))


def _across(where: str, by_kind: Json, title: str) -> str:
    kinds = [kind for kind in KINDS if by_kind.get(kind)]
    series = {KINDS[kind].plural: _numbers(by_kind[kind]) for kind in kinds}
    total = sum(sum(counts.values()) for counts in series.values())
    long = sum(count for counts in series.values() for images, count in counts.items() if images >= LONG)
    said = f"{long / max(1, total):.1%} of all entities are in {LONG} images or more"
    said += "; " + ", ".join(
        f"{sum(count for images, count in counts.items() if images >= LONG) / sum(counts.values()):.1%} of the {name}"
        for name, counts in series.items()
    )
    rows = [
        (images, *(counts.get(images, 0) for counts in series.values()))
        for images in sorted({images for counts in series.values() for images in counts})
    ]
    chart = charts.columns(series, title) + charts.legend(list(series))
    return _figure(title, f"{said}.", chart, (("images", *series), rows))


def _transitions(found: Json) -> str:
    parts = ("stayed", "new", "returned")
    rows = [
        (
            f"image {number} to {int(number) + 1}",
            [(part, counts[part] / counts["pairs"]) for part in parts],
            f"{sum(counts[part] for part in parts) / counts['pairs']:.1f}",
        )
        for number, counts in found.items()
    ]
    table = [(number, *counts.values()) for number, counts in found.items()]
    title = "From one image to the next"
    said = "Entities per image: also in the previous image (stayed), first seen here (new), or back after a gap (returned)."
    chart = charts.bars(rows, title) + charts.legend(parts)
    return _figure(title, said, chart, (("image", "transitions", "stayed", "new", "returned", "left"), table))


def _drift(found: Json) -> str:
    kinds = [kind for kind in KINDS if kind in found]
    series = {KINDS[kind].plural: _numbers(found[kind]["moved"]) for kind in kinds}
    said = "Distance that a box's centre moves to the next image, in percent of the frame diagonal. Mean IoU of the two boxes: "
    said += ", ".join(f"{found[kind]['mean_iou']:.2f} for {KINDS[kind].plural}" for kind in kinds) + "."
    rows = [
        (f"{moved} to {moved + DRIFT_STEP} %", *(counts.get(moved, 0) for counts in series.values()))
        for moved in sorted({moved for counts in series.values() for moved in counts})
    ]
    title = "Drift of boxes"
    chart = charts.columns(series, title, unit=" %", most=20) + charts.legend(list(series))
    return _figure(title, said, chart, (("distance", *series), rows))


def _pronouns(found: Json) -> str:
    rows = [
        (
            word,
            [("tagged", counts["tagged"]), ("not tagged", counts["untagged"])],
            f"{_share(counts):.1%} of {counts['tagged'] + counts['untagged']:,}",
        )
        for word, counts in found.items()
    ]
    table = [(word, *counts.values()) for word, counts in found.items()]
    title = "Grounded pronouns"
    chart = charts.bars(rows, title) + charts.legend(("tagged", "not tagged"))
    return _figure(
        title, _all_of(found.values()), chart, (("pronoun", "person", "case", "tagged", "not tagged"), table)
    )


def _by_person(found: Json, names: Json) -> str:
    groups: dict[str, Json] = {}
    for counts in found.values():
        for group in (f"{counts['person']} person", counts["case"]):
            sums = groups.setdefault(group, {"tagged": 0, "untagged": 0})
            sums["tagged"] += counts["tagged"]
            sums["untagged"] += counts["untagged"]
    groups = dict(sorted(groups.items(), key=lambda item: (not item[0].endswith("person"), item[0]))) | {"names": names}
    rows = [
        (
            group,
            [("tagged", _share(sums)), ("not tagged", 1 - _share(sums))],
            f"{_share(sums):.1%} of {sums['tagged'] + sums['untagged']:,}",
        )
        for group, sums in groups.items()
        if sums["tagged"] + sums["untagged"]
    ]
    title = "Grounded words by person and case, and names"
    said = f"{names['untagged']:,} mentions of character names are not tagged."
    table = [(group, sums["tagged"], sums["untagged"]) for group, sums in groups.items()]
    chart = charts.bars(rows, title, whole=1.0) + charts.legend(("tagged", "not tagged"))
    return _figure(title, said, chart, (("", "tagged", "not tagged"), table))


def _phases(found: Json) -> str:
    rows = [
        (
            phase,
            [(tag, counts[tag] / counts["images"]) for tag in TAGS],
            f"{sum(counts[tag] for tag in TAGS) / counts['images']:.1f} in {counts['images']:,} images",
        )
        for phase, counts in found.items()
        if counts["images"]
    ]
    table = [(phase, *counts.values()) for phase, counts in found.items()]
    title = "Tags by narrative phase"
    chart = charts.bars(rows, title) + charts.legend([f"<{tag}> {meaning}" for tag, meaning in TAGS.items()])
    return _figure(title, "Tagged spans per image of the phase.", chart, (("phase", "images", *TAGS), table))


def _all_of(found: Any) -> str:
    tagged = sum(counts["tagged"] for counts in found)
    total = tagged + sum(counts["untagged"] for counts in found)
    return f"{tagged / max(1, total):.1%} of {total:,} personal pronouns are tagged."


def _share(counts: Mapping[str, int]) -> float:
    return counts["tagged"] / max(1, counts["tagged"] + counts["untagged"])


def _numbers(counts: Mapping[str, int]) -> dict[int, float]:
    return {int(value): float(count) for value, count in counts.items()}


def _figure(title: str, said: str, chart: str, table: Table) -> str:
    heading, rows = table
    head = "".join(f'<th scope="col" class="number">{escape(str(cell))}</th>' for cell in heading)
    body = "".join(
        "<tr>" + "".join(f'<td class="number">{escape(_cell(cell))}</td>' for cell in row) + "</tr>" for row in rows
    )
    return (
        f"<figure><figcaption><b>{escape(title)}</b><span>{escape(said)}</span></figcaption>{chart}"
        f'<details><summary>As a table</summary><div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></details></figure>"
    )


def _cell(value: object) -> str:
    return f"{value:,.0f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
