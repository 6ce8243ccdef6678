"""The verbs `storyreason check` and `storyreason read`."""

import contextlib
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from storyreason.cli.options import Format, Split
from storyreason.errors import DataError

if TYPE_CHECKING:
    from storyreason.dataset import Bad, Inspected
    from storyreason.format.problems import Problem


def check(
    path: Annotated[
        Path, typer.Argument(help="A data set (folder of parquet shards), or answers: .txt files, jsonl, parquet.")
    ],
    data: Annotated[
        Path | None,
        typer.Option(help="For answers: the data set they were written for, which has the sizes of the images."),
    ] = None,
    split: Annotated[Split | None, typer.Option(help="One split of the data. Default: all; for answers, test.")] = None,
    base: Annotated[
        str | None,
        typer.Option(help="For a data set: the base model that is to take it, a folder or a name on the Hub."),
    ] = None,
    format: Annotated[Format, typer.Option(help="Output format.")] = "table",
) -> None:
    """Check a data set, all that training, evaluation and the page need of it, or a model's answers. Exit code 1 for errors."""
    report = _Report(keep=format == "json")
    if splits := _splits(path):
        _check_data(report, path, [split] if split else splits, base)
    elif base:
        raise DataError(f"{path} is not a data set (a folder of parquet shards), and --base is for data sets alone.")
    else:
        for story_id, text, sizes in _progress(_answers(path, data, split or "test")):
            report.add(story_id, text, sizes)
    if format == "json":
        typer.echo(json.dumps(report.as_json(), ensure_ascii=False, indent=2))
    else:
        report.print()
    if report.valid < report.answers or report.unusable:
        raise typer.Exit(1)


def read(
    file: Annotated[
        Path, typer.Argument(help="A text file with one answer, `<think>` to `</gdi>`; `-` for standard input.")
    ],
) -> None:
    """Read an answer: print what could be read and every problem with its position, as JSON."""
    from storyreason import predictions
    from storyreason.format import answer, rules

    text = sys.stdin.read() if str(file) == "-" else predictions.read_text(file)
    told = answer.read(text)
    problems = rules.check(told, None)
    typer.echo(
        json.dumps(
            {
                "readable": told.readable,
                "valid": rules.is_valid(problems),
                "analysis": asdict(told.analysis) if told.analysis else None,
                "story": asdict(told.story) if told.story else None,
                "problems": [_problem(problem) for problem in problems],
            },
            ensure_ascii=False,
            indent=2,
        )
    )


T = TypeVar("T")
Checked = tuple[str, str | None, Sequence[tuple[int, int]] | None]
"""A story's ID, its answer (None if missing) and the sizes of its images (None if unknown)."""


def _answers(path: Path, data: Path | None, split: Split) -> Iterator[Checked]:
    from storyreason import dataset, predictions

    told = predictions.load(path)
    if data is None:
        yield from ((story_id, text, None) for story_id, text in told.items())
        return
    for example in dataset.load(data, split):
        yield example.story_id, told.pop(example.story_id, None), dataset.sizes(example)
    if told:
        raise DataError(f"{path} answers {len(told)} stories that are not in the {split} split of {data}, "
                        f"{next(iter(told))!r} first: name the data and split the answers belong to.")  # fmt: skip


def _check_data(report: "_Report", path: Path, splits: Sequence[str], base: str | None) -> None:
    from storyreason import chat, dataset, model
    from storyreason.dataset.checking import odd_in
    from storyreason.dataset.shards import as_stored

    encoder = chat.Encoder(model.load_processor(base)) if base else None
    for split in splits:
        examples = dataset.load(path, split, raw=True)
        if not examples:
            raise DataError(f"{path} has no stories in its {split} split: add some.")
        for example in _progress(examples):
            report.odd.update(odd_in(example))
            seen = dataset.inspect(as_stored(example), encoder)
            report.add_read(example.story_id, seen.problems)
            report.add_faults(seen, split)


def _splits(path: Path) -> list[str]:
    """The splits of the data set at a path; empty when there is none."""
    from storyreason import dataset

    splits: list[str] = []
    for part in dataset.SPLITS:
        with contextlib.suppress(DataError):
            splits += [part] if dataset.shards(path, part) else []
    return splits


def _progress(texts: Iterable[T]) -> Iterable[T]:
    from rich.console import Console
    from rich.progress import track

    return track(texts, "checking", console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())


class _Report:
    """Counts what `check` finds by rule. With `keep` it keeps every problem, otherwise the first of each rule."""

    def __init__(self, keep: bool) -> None:
        self.answers = self.valid = self.missing = self.unsized = 0
        self.unusable: list[Bad] = []
        self.odd: Counter[str] = Counter()  # pictures, by name in `pictures.ODD`
        self.special: dict[str, list[str]] = {}  # stories by the special token that they contain
        self._keep = keep
        self._broken_in: Counter[str] = Counter()  # answers, by rule
        self._times: Counter[str] = Counter()
        self._first: dict[str, tuple[str, Problem]] = {}
        self._all: list[dict[str, Any]] = []

    def add(self, story_id: str, text: str | None, sizes: Sequence[tuple[int, int]] | None) -> None:
        from storyreason.format import answer, rules

        if text is None:
            self.answers += 1
            self.missing += 1
            return
        self.unsized += sizes is None
        self.add_read(story_id, rules.check(answer.read(text), sizes))

    def add_faults(self, seen: "Inspected", split: str) -> None:
        if bad := seen.bad(split):
            self.unusable.append(bad)
        for token in seen.special:
            self.special.setdefault(token, []).append(seen.example.story_id)

    def add_read(self, story_id: str, problems: "Sequence[Problem]") -> None:
        from storyreason.format import rules

        self.answers += 1
        self.valid += rules.is_valid(problems)
        self._broken_in.update({problem.rule for problem in problems})
        self._times.update(problem.rule for problem in problems)
        for problem in problems:
            self._first.setdefault(problem.rule, (story_id, problem))
        if self._keep:
            self._all += [{"story_id": story_id, **_problem(problem)} for problem in problems]

    def as_json(self) -> dict[str, Any]:
        from storyreason.format.rules import RULES

        found = {
            rule: {"severity": RULES[rule].severity, "answers": self._broken_in[rule], "problems": self._times[rule]}
            for rule in RULES
            if rule in self._times
        }
        counts = {"answers": self.answers, "valid": self.valid, "missing": self.missing, "unsized": self.unsized}
        unusable = {"unusable": [asdict(one) for one in self.unusable], "special_tokens": self.special}
        return {**counts, **unusable, "odd_pictures": self.odd, "rules": found, "problems": self._all}

    def print(self) -> None:
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        from storyreason.dataset.checking import NAMED, odd_told, special_told
        from storyreason.format.rules import RULES

        # A pipe has no width: make it wide enough to keep each row on one line.
        console = Console(width=None if sys.stdout.isatty() else 240, highlight=False)
        table = Table("Rule", "Severity", "Answers", "Problems", "First")
        for rule, (severity, _) in RULES.items():
            if rule in self._first:
                story_id, problem = self._first[rule]
                first = escape(f"{story_id}, line {problem.line}, column {problem.column}: {problem.message}")
                colour = "red" if severity == "error" else "yellow"
                counts = str(self._broken_in[rule]), str(self._times[rule])
                table.add_row(rule, f"[{colour}]{severity}[/]", *counts, first)
        if table.row_count:
            console.print(table)
        missing = f", {self.missing} missing" if self.missing else ""
        console.print(f"{self.answers} answers, {self.valid} valid ({self.valid / max(self.answers, 1):.1%}){missing}")
        for told in (*special_told(self.special), *odd_told(self.odd)):
            console.print(escape(told))
        if self.unusable:
            console.print(f"[red]{len(self.unusable)} stories cannot be used[/]:")
            for bad in self.unusable[:NAMED]:
                console.print(f"- {escape(str(bad))}", soft_wrap=True)
            if len(self.unusable) > NAMED:
                console.print(f"- and {len(self.unusable) - NAMED} more (--format json lists all)")
        if self.unsized:
            console.print(
                "The images are unknown, so boxes were not checked against them: name the data set with --data."
            )


def _problem(problem: "Problem") -> dict[str, Any]:
    from storyreason.format.rules import RULES

    return {**asdict(problem), "severity": RULES[problem.rule].severity}
