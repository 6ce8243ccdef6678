"""A data set of films: who is who in their frames, contact sheets, stories by a model, and the shards."""

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

from prefect import get_run_logger

from storyreason import perception, runs
from storyreason.authoring import assembling, estimating, prompting, withdrawing
from storyreason.authoring import landmarks as naming
from storyreason.authoring.assembling import FilmStories
from storyreason.authoring.calls import Author, Budget, Spent
from storyreason.authoring.config import HOW, AuthoringConfig
from storyreason.authoring.windows import Shot, identity, recognized, windows
from storyreason.authoring.writing import write
from storyreason.config import RunConfig
from storyreason.errors import ConfigError, DataError, EngineAwayError
from storyreason.generation import openai
from storyreason.perception import detecting, frames
from storyreason.perception.frames import Frame
from storyreason.serving import client as gateway
from tasks.results import Assembled, Authored, Named, Recognized, Sheet
from tasks.steps import Work, step
from tasks.tracking import recall

LANDMARKS_VERSION, RECOGNIZE_VERSION, SHEET_VERSION, AUTHOR_VERSION, ASSEMBLE_VERSION = 3, 2, 1, 3, 2
KEY = "STORYREASON_API_KEY"
CALLS = "calls"
"""The folder in `runs/` with the replies that were paid for, a folder for each film."""


@dataclass(frozen=True)
class Tables:
    """A folder with the table of frames, of one film or many, and the table of what was detected in them."""

    kept: Path
    detections: Path
    hidden: frozenset[tuple[str, int, int]] = frozenset()
    """Film, scene and frame of what nobody may see, because it shows what was withdrawn."""

    @property
    def films(self) -> list[str]:
        """The films that are not hidden whole."""
        hidden = Counter(film for film, _, _ in self.hidden)
        return [film for film, count in frames.films(self.kept).items() if count > hidden[film]]

    def read(self, film: str) -> Iterator[Frame]:
        """The frames of a film, without those that are hidden."""
        for one in frames.read(self.kept, film):
            if (film, one.scene, one.frame) not in self.hidden:
                yield one


@dataclass(frozen=True)
class Footage:
    """A film: the tables that it is in, the entities of its detections, and what identifies all of it."""

    film: str
    tables: Tables
    ids: Path
    identity: str

    def shots(self) -> list[Shot]:
        """Its frames with what is seen in them, without those that are hidden."""
        seen = recognized(self.tables.detections, self.ids, self.film)
        hidden = self.tables.hidden
        # An interrupted withdrawal may have left what was detected in the frames that it has removed.
        gone = withdrawing.removed(self.tables.kept, self.film)
        shots = seen.shots(list(frames.read(self.tables.kept, self.film)), gone)
        return [one for one in shots if (self.film, one.frame.scene, one.frame.frame) not in hidden]


def digest(file: Path | None) -> str | None:
    """The SHA-256 of a file; None for none. Raises DataError."""
    if file is None:
        return None
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}.") from error


def check_author(config: RunConfig) -> None:
    """Ask the endpoint of the authoring model for its models. Raises EngineError, and ConfigError if it does not have it."""
    chosen, key = _endpoint(config)
    try:
        served = openai.models(chosen.endpoint, key)
    except EngineAwayError as error:
        way = "start it again when it is there" if config.authoring.endpoint else "start it with `storyreason up`"
        raise EngineAwayError(f"The model that writes is not there: {error} {way[0].upper()}{way[1:]}.") from error
    if served and chosen.model not in served:
        raise ConfigError(f"{chosen.endpoint} has no model {chosen.model!r}, only {', '.join(sorted(served))}: name one of "
                          "them as authoring.model.")  # fmt: skip


def check_asked(config: RunConfig, works: Iterable[Work]) -> None:
    """As `check_author`, if one of these steps has yet to ask the model."""
    if any(recall(work.folder) is None for work in works):
        check_author(config)


def _landmarks_named_by(config: RunConfig, tables: Tables, before: float) -> str:
    chosen = config.authoring
    return runs.fingerprint(
        step="landmarks",
        version=LANDMARKS_VERSION,
        frames=digest(tables.kept / frames.FILE),
        detections=digest(tables.detections),
        labels=sorted(chosen.landmarks),
        prompts=prompting.identity("instructed"),
        authoring=[chosen.model, chosen.temperature, chosen.seed, chosen.attempts, chosen.max_tokens],
        **({"hidden": sorted(tables.hidden)} if tables.hidden else {}),
    )


@step(_landmarks_named_by, retries=2, delay=10)
def landmarks(work: Work, config: RunConfig, tables: Tables, before: float) -> Named:
    """Have a model name the landmarks among the detections. `before` is what was spent on other tables."""
    logger, (chosen, key) = get_run_logger(), _endpoint(config)
    names, spent = dict[int, str](), Spent()
    for film in frames.films(tables.kept):
        found = naming.candidates(tables.detections, film, chosen.landmarks)
        budget = Budget(chosen, before + spent.cost)
        author = Author(chosen, calls(film), budget, key)
        names |= naming.name(author, chosen, tables.read(film), found, lambda said: logger.warning("%s", said))
        spent += budget.total()
    naming.write(tables.detections, names, work.folder / "detections.parquet")
    return Named(
        ("detections.parquet",),
        work.folder / "detections.parquet",
        len(names),
        spent.calls,
        spent.refused,
        spent.prompt_tokens,
        spent.tokens,
        spent.rejected,
    )


def cost(config: RunConfig, done: Iterable[Named | Authored]) -> float:
    """What was spent in steps, by today's prices: theirs may have been others, or none."""
    return sum(Budget(config.authoring).price(one.prompt_tokens, one.tokens) for one in done)


def _endpoint(config: RunConfig) -> tuple[AuthoringConfig, str | None]:
    """The settings with the address that is asked, and the key for it: the gateway's own, or the one of the environment."""
    chosen = config.authoring
    if chosen.endpoint:
        return chosen, os.environ.get(KEY)
    return chosen.model_copy(update={"endpoint": gateway.url(config.serving)}), gateway.token(config.serving)


def _recognize_named_by(detections: Path, corrections: Path | None) -> str:
    return runs.fingerprint(
        step="recognize",
        version=RECOGNIZE_VERSION,
        detections=digest(detections),
        corrections=digest(corrections),
    )


@step(_recognize_named_by)
def recognize(work: Work, detections: Path, corrections: Path | None) -> Recognized:
    """Find out which detections show the same person or thing, film by film."""
    given = perception.load_corrections(corrections) if corrections else []
    table, found, left_out = perception.Detections(detections), {}, list[str]()
    for film in table:
        linked = perception.linked(film, given)
        told = perception.identify(film, linked)
        found[film.name] = (film.ids, told.names, told.probabilities)
        left_out += linked.left_out
    perception.write(work.folder / "ids.parquet", table, found)
    return Recognized(("ids.parquet",), work.folder / "ids.parquet", left_out)


def elsewhere(corrections: Path | None, tables: Sequence[Tables]) -> list[str]:
    """A sentence for each correction of a film in which nothing is detected: it applies nowhere."""
    import pyarrow.parquet as pq

    if corrections is None:
        return []
    films = {
        str(film)
        for one in tables
        for film in pq.read_table(one.detections, columns=["film"]).column("film").unique().to_pylist()
    }
    return [
        f"Correction {number} of {corrections} is of film {str(one.film)!r}, in which nothing is detected here: it is left out."
        for number, one in enumerate(perception.load_corrections(corrections), 1)
        if str(one.film) not in films
    ]


def footage(tables: Tables, ids: Path) -> list[Footage]:
    """The films of a table of frames, but for those that are hidden whole.

    Raises DataError for one that cannot be used, and for detections of others.
    """
    found = []
    for film in frames.films(tables.kept):
        one = Footage(film, tables, ids, "")
        if shots := one.shots():
            found.append(replace(one, identity=identity(shots)))
    return found


def _sheet_named_by(film: Footage) -> str:
    return runs.fingerprint(step="sheet", version=SHEET_VERSION, film=film.identity)


@step(_sheet_named_by, run_name="sheet-{film.film}")
def sheet(work: Work, film: Footage) -> Sheet:
    """Make the page on which a person sees whether a film's entities are right."""
    page = assembling.contact_sheet(film.film, film.shots())
    runs.write_text(work.folder / "sheet.html", page)
    return Sheet(("sheet.html",), film.film, work.folder / "sheet.html")


def expected(config: AuthoringConfig, films: Sequence[Footage], unnamed: Sequence[Tables] = ()) -> Spent:
    """What authoring these films will cost, about, and before it naming the landmarks in some tables."""
    made = (window for film in films for window in windows(film.shots()).windows)
    return sum((_to_name(config, table) for table in unnamed), estimating.expected(config, made))


def _to_name(config: AuthoringConfig, tables: Tables) -> Spent:
    """What naming landmarks will cost, about."""
    total = Spent()
    for film in frames.films(tables.kept):
        found = naming.candidates(tables.detections, film, config.landmarks)
        boxes = ((one.image, found.get((str(one.scene), str(one.frame)), ())) for one in tables.read(film))
        total += estimating.landmarks(config, boxes)
    return total


def calls(film: str) -> Path:
    """The folder with the replies about a film that were paid for."""
    return runs.root() / CALLS / runs.fingerprint(film=film)


def _author_named_by(config: RunConfig, film: Footage, before: float) -> str:
    chosen = runs.deciding(config.authoring, always=("model",), never=HOW)
    prompts = prompting.identity(config.authoring.asking)
    return runs.fingerprint(
        step="author", version=AUTHOR_VERSION, film=film.identity, prompts=prompts, authoring=chosen
    )


@step(_author_named_by, retries=2, delay=10, run_name="author-{film.film}")
def author(work: Work, config: RunConfig, film: Footage, before: float) -> Authored:
    """Have a model write the stories of a film. `before` is what the other films of the data set cost."""
    logger, (chosen, key) = get_run_logger(), _endpoint(config)
    shots, budget = film.shots(), Budget(chosen, before)
    made = windows(shots)
    asked = Author(chosen, calls(film.film), budget, key)
    written = write(asked, chosen, made.windows, lambda said: logger.info("%s", said))
    for one in written.left_out:
        logger.warning("%s is left out: its %s breaks %s: %s", one.story_id, one.part, one.rule, one.message)
    told = FilmStories.of(shots, made, written, budget.total())
    runs.write_text(work.folder / "stories.json", told.to_json())
    logger.info("%s: %d stories of %d windows, %s", film.film, len(told.stories), len(made.windows),
                estimating.sentence(budget.spent))  # fmt: skip
    return Authored(
        ("stories.json",),
        work.fingerprint,
        film.film,
        work.folder / "stories.json",
        len(told.stories),
        len(told.left_out),
        told.spent.prompt_tokens,
        told.spent.tokens,
        told.spent.rejected,
    )


def _assemble_named_by(
    config: RunConfig,
    films: Sequence[Footage],
    authored: Sequence[Authored],
    licence: str,
    named: Sequence[Named] = (),
) -> str:
    # Their content, not their names: what an endpoint has rejected, it may take another time.
    parts = sorted(str(digest(one.stories)) for one in authored)
    return runs.fingerprint(
        step="assemble",
        version=ASSEMBLE_VERSION,
        films=parts,
        detections=sorted({str(digest(film.tables.detections)) for film in films}),
        share=config.authoring.test_share,
        prices=[config.authoring.price_in, config.authoring.price_out],
        licence=licence,
        **({"landmarks": [[one.calls, one.refused, one.prompt_tokens, one.tokens] for one in named]} if named else {}),
    )


def _made_by(tables: Set[Path]) -> dict[str, str]:
    """The models that detected, for the card, and what identifies the tables of detections."""
    found: dict[str, set[str]] = {}
    for table in tables:
        for what, name in detecting.models(table).items():
            found.setdefault(what, set()).add(name)
    digests = sorted({str(digest(table)) for table in tables})
    whole = (
        digests[0]
        if len(digests) == 1
        else f"{hashlib.sha256(''.join(digests).encode()).hexdigest()} of those of films"
    )
    return {what: "; ".join(sorted(names)) for what, names in found.items()} | {"Detections": f"SHA-256 {whole}"}


@step(_assemble_named_by)
def assemble(
    work: Work,
    config: RunConfig,
    films: Sequence[Footage],
    authored: Sequence[Authored],
    licence: str,
    named: Sequence[Named] = (),
) -> Assembled:
    """Write the shards and the card of the data set. `named` are the landmarks of its films."""
    told = [FilmStories.from_json(one.stories.read_text()) for one in authored]
    chosen, total = config.authoring, sum((one.spent for one in told), Spent())
    for one in named:
        total += Spent(one.calls, 0, one.refused, one.prompt_tokens, one.tokens)
    total.cost = Budget(chosen).price(total.prompt_tokens, total.tokens)
    card = {
        "licence": licence,
        **_made_by({film.tables.detections for film in films}),
        "Entities": "by `storyreason identify`, over whole films",
        "Author": f"{chosen.model}, asked as {chosen.asking}{' under grammars' * chosen.grammars}, temperature "
        f"{chosen.temperature:g}, prompts {prompting.identity(chosen.asking)}",
        "Authoring": f"{estimating.sentence(total)}; {total.refused} refusals",
    }
    new = work.folder / "data.unfinished"
    shutil.rmtree(new, ignore_errors=True)
    assembling.assemble({film.film: film.tables.kept for film in films}, told, new, chosen.test_share, card)
    runs.replace(work.folder / "data", new)
    return Assembled(("data",), work.folder / "data")
