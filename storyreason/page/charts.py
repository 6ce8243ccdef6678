"""Charts as inline SVG: without scripts, coloured by the classes in report.css, with a title on every bar.

Screen readers read the label of a chart; the numbers are in the table below it.
"""

from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 560, 190
LABELS = 158
"""Width of the label column in `bars`, in the same units."""


def columns(series: Mapping[str, Mapping[int, float]], label: str, unit: str = "", most: int = 28) -> str:
    """A histogram over whole numbers, one colour per series; values are shares of their series.

    If there are more than `most` different numbers, neighbours share a column: 73 to 198 words become 70-79, 80-89, …
    """
    values = sorted({value for counts in series.values() for value in counts})
    if not values:
        return ""
    step = _step(values[-1] - values[0] + 1, most)
    first, last = values[0] // step, values[-1] // step
    shares = {name: _binned(counts, step) for name, counts in series.items()}
    high = max(share for binned in shares.values() for share in binned.values())
    slot = min(WIDTH / (last - first + 1), 72.0)  # a few columns stay slim and at the left
    width = slot * 0.84 / len(shares)
    parts = []
    for place, (name, binned) in enumerate(shares.items()):
        for bin_, share in sorted(binned.items()):
            x = (bin_ - first) * slot + slot * 0.08 + place * width
            height = share / high * (HEIGHT - 40)
            title = f"{_span(bin_, step)}{unit}: {share:.1%}{f' of {name}' if name else ''}"
            parts.append(_bar(place, x, HEIGHT - 20 - height, width * 0.94, height, title))
    every = max(1, -(-(last - first + 1) // 14))  # at most 14 numbers below the axis
    for bin_ in range(first, last + 1, every):
        x = (bin_ - first + 0.5) * slot
        parts.append(f'<text class="tick" x="{x:.1f}" y="{HEIGHT - 5}" text-anchor="middle">{bin_ * step}{unit}</text>')
    parts.append(f'<line class="axis" x1="0" x2="{WIDTH}" y1="{HEIGHT - 19.5}" y2="{HEIGHT - 19.5}"/>')
    parts.append(f'<text class="tick" x="0" y="12">{high:.0%}</text>')
    return _svg(parts, HEIGHT, label)


def bars(rows: Sequence[tuple[str, Sequence[tuple[str, float]], str]], label: str, whole: float | None = None) -> str:
    """Stacked horizontal bars, each (name, [(part, value), …], text at the end). `whole` is the value of a full bar."""
    if not rows:
        return ""
    whole = whole or max(sum(value for _, value in parts) for _, parts, _ in rows) or 1.0
    line, room = 24, WIDTH - LABELS - 124
    drawn = []
    for number, (name, parts, end) in enumerate(rows):
        y, x = number * line, float(LABELS)
        drawn.append(f'<text class="name" x="{LABELS - 10}" y="{y + 16}" text-anchor="end">{escape(name)}</text>')
        for place, (part, value) in enumerate(parts):
            width = value / whole * room
            drawn.append(
                _bar(place, x, y + 4, width, line - 8, f"{name}, {part}: {value:,.2f}".rstrip("0").rstrip("."))
            )
            x += width
        drawn.append(f'<text class="tick" x="{x + 8:.1f}" y="{y + 16}">{escape(end)}</text>')
    return _svg(drawn, line * len(rows), label)


def legend(names: Sequence[str]) -> str:
    """The colours of the parts or series, in order."""
    items = (f'<span class="key s{place}">{escape(name)}</span>' for place, name in enumerate(names))
    return f'<p class="keys">{"".join(items)}</p>'


def _step(span: int, most: int) -> int:
    """1, 2, 5, 10, 20, 50, …: the smallest that divides `span` numbers into at most `most` columns."""
    scale = 1
    while True:
        for factor in (1, 2, 5):
            if span <= most * factor * scale:
                return factor * scale
        scale *= 10


def _binned(counts: Mapping[int, float], step: int) -> dict[int, float]:
    total = sum(counts.values()) or 1.0
    binned: dict[int, float] = {}
    for value, count in counts.items():
        binned[value // step] = binned.get(value // step, 0.0) + count / total
    return binned


def _span(bin_: int, step: int) -> str:
    return str(bin_) if step == 1 else f"{bin_ * step} to {bin_ * step + step - 1}"


def _bar(place: int, x: float, y: float, width: float, height: float, title: str) -> str:
    return (
        f'<rect class="s{place}" x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{max(height, 0):.1f}" rx="2">'
        f"<title>{escape(title)}</title></rect>"
    )


def _svg(parts: Sequence[str], height: int, label: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
