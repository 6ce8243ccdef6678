"""How fast answers are read, checked and scored. Seconds are of CPU time, the best of several runs.

python benchmarks/scoring.py reading
python benchmarks/scoring.py scoring
python benchmarks/scoring.py rewarding
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "paper_protocol.json"

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
console = Console(highlight=False)


@app.callback()
def benchmarks() -> None:
    pass


def best(run: Callable[[], Any], times: int) -> float:
    """Seconds of CPU time of the fastest of several runs."""
    seconds = []
    for _ in range(times):
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)
    return min(seconds)


@app.command()
def reading(times: int = 20) -> None:
    """MB/s of well-formed text (the golden stories), and seconds for a megabyte of hostile text."""
    from storyreason.format import analysis, answer, rules, story

    stories = json.loads(GOLDEN.read_text())["stories"]
    sizes = [example["image_sizes"] for example in stories]
    thoughts = [example["chain_of_thought"] for example in stories]
    told = [example["story"] for example in stories]
    answers = [answer.join(*pair) for pair in zip(thoughts, told, strict=True)]

    def stream(piece: int) -> None:
        for text in answers:
            reader = answer.Reader()
            for start in range(0, len(text), piece):
                reader.feed(text[start : start + piece])
            reader.close()

    def split(text: str) -> list[list[str]]:
        return [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.split("\n") if line[:1] == "|"]

    measured: dict[str, tuple[list[str], Callable[[], Any]]] = {
        "split lines and cells, no more": (thoughts, lambda: [split(text) for text in thoughts]),
        "analysis.read": (thoughts, lambda: [analysis.read(text) for text in thoughts]),
        "story.read": (told, lambda: [story.read(text) for text in told]),
        "answer.read": (answers, lambda: [answer.read(text) for text in answers]),
        "answer.Reader, 4 characters at a time": (answers, lambda: stream(4)),
        "answer.read and rules.check": (
            answers,
            lambda: [rules.check(answer.read(text), size) for text, size in zip(answers, sizes, strict=True)],
        ),
    }
    table = Table("Well-formed text", "MB", "MB/s", title="Reading")
    for name, (texts, run) in measured.items():
        megabytes = sum(map(len, texts)) / 1e6
        table.add_row(name, f"{megabytes:.2f}", f"{megabytes / best(run, times):.1f}")
    console.print(table)

    table = Table("1 MB of hostile text", "read s", "with rules s", title="Nonsense")
    for name, text in hostile(1_000_000).items():
        assert len(text) >= 1_000_000, name
        read = best(partial(answer.read, text), 3)
        check = best(partial(_check, text), 3)
        table.add_row(name, f"{read:.2f}", f"{check:.2f}")
    console.print(table)


def _check(text: str) -> None:
    from storyreason.format import answer, rules

    rules.check(answer.read(text), [(575, 240)] * 5)


def hostile(size: int) -> dict[str, str]:
    """Texts of `size` characters that a careless reader takes quadratic time for, by what they repeat."""

    def fill(start: str, again: str) -> str:
        return start + again * (size // len(again) + 1)

    table, tags = "<think>\n## Image 1\n### Characters\n", "<think>\n## Image 1\n</think>\n<gdi image1>"
    return {
        "pipes": fill(table, "|"),
        "lines of a pipe": fill(table, "|\n"),
        "escaped pipes": fill(table, "\\|"),
        "rows": fill(table, "| char1 | a | b | c | d | e | 1,2,3,4 |\n"),
        "headings": fill("<think>\n", "## Image 1\n"),
        "digits": fill("<think>\n## Image ", "9"),
        "digits in a box": fill(table + "| char1 | a | b | c | d | e | 1,2,3,", "9"),
        "ranges of images": fill("<think>\n## Narrative Structure\n", "|a|b|c|1-999,1-30|\n"),
        "opened mentions": fill(tags, "<gdo a>"),
        "closed mentions": fill(tags, "</gdo>"),
        "begun tags": fill(tags, "<gdo "),
        "a tag without end": fill(tags + "<gdo ", "a"),
        "passages": fill(tags, "<gdi image1>"),
        "unknown IDs": fill(tags, "<gdo char9>a</gdo>"),
        "pronouns": fill(tags, "she "),
        "begun markers": fill("", "<think"),
        "empty lines": fill("<think>", "\n"),
    }


@app.command()
def scoring(stories: int = 626, meteor: bool = True) -> None:
    """Seconds to score so many stories of 5 to 9 frames (the golden ones, again and again), and peak memory."""
    import resource

    from storyreason.scoring import Reference, score

    golden = json.loads(GOLDEN.read_text())["stories"]

    def references() -> Iterator[Reference]:
        for number in range(stories):
            told = golden[number % len(golden)]
            sizes = tuple((width, height) for width, height in told["image_sizes"])
            yield Reference(str(number), sizes, told["chain_of_thought"], told["story"])

    predictions = {str(number): golden[number % len(golden)]["prediction"] for number in range(stories)}
    table = Table("", "wall s", "CPU s, Java too", title=f"{stories} stories")

    def measure(what: str, run: Callable[[], Any]) -> Any:
        wall, cpu = time.perf_counter(), _cpu()
        result = run()
        table.add_row(what, f"{time.perf_counter() - wall:.1f}", f"{_cpu() - cpu:.1f}")
        return result

    measure("strict", lambda: score(references(), predictions))
    card = measure(
        "strict and paper, all but METEOR", lambda: score(references(), predictions, ("strict", "paper"), False)
    )
    measure("intervals of all scores, 2000 resamples", card.intervals)
    if meteor:
        measure("strict and paper with METEOR", lambda: score(references(), predictions, ("strict", "paper")))
    console.print(table)
    console.print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB, without Java's")


@app.command()
def rewarding(times: int = 20) -> None:
    """Rewards a second of CPU time, for the golden stories' predictions and for their references as answers."""
    from storyreason.format import answer
    from storyreason.scoring import Reference, reward

    golden = json.loads(GOLDEN.read_text())["stories"]
    references = [
        Reference(
            told["story_id"], tuple((w, h) for w, h in told["image_sizes"]), told["chain_of_thought"], told["story"]
        )
        for told in golden
    ]
    answers = {
        "predictions": [told["prediction"] for told in golden],
        "references": [answer.join(told["chain_of_thought"], told["story"]) for told in golden],
    }
    table = Table("Answers", "characters", "rewards a second", title="Rewarding, each reference parsed once")
    for name, texts in answers.items():
        pairs = list(zip(references, texts, strict=True))
        seconds = best(lambda pairs=pairs: [reward(*pair) for pair in pairs], times)  # type: ignore[misc]
        table.add_row(name, f"{sum(map(len, texts)) / len(texts):,.0f}", f"{len(texts) / seconds:,.0f}")
    console.print(table)


def _cpu() -> float:
    """CPU seconds of this process and of the programs it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


if __name__ == "__main__":
    app()
