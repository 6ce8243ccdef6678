"""Every story is compared with another one of the same images, in both orders, and twice in each."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product

from storyreason.authoring.calls import Author, Reply
from storyreason.judging import rubric
from storyreason.judging.rubric import Ratings

REPEATS = 2
"""How often the same is asked, each time with a seed of its own."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A story to judge, and the one that it is compared with. `planted`: how many faults it is known to have more."""

    name: str
    story_id: str
    images: tuple[bytes, ...]
    story: str
    other: str
    planted: int | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """One comparison: the ratings of the candidate and of the other story; None with `refused`, which says why.

    `swapped`: the other story came first.
    """

    name: str
    story_id: str
    swapped: bool
    repeat: int
    ratings: Ratings | None
    other: Ratings | None
    refused: str = ""


def judge(
    author: Author,
    candidates: Sequence[Candidate],
    concurrency: int = 4,
    on_progress: Callable[[int, int], object] = lambda done, of: None,
) -> list[Judgement]:
    """All comparisons of all candidates, in order; a story beside itself has one order only. What was asked before is not paid
    again. Raises as `Author.ask` does."""
    asked = [
        (one, swapped, repeat)
        for one, swapped, repeat in product(candidates, (False, True), range(REPEATS))
        if not swapped or one.story != one.other
    ]
    found: list[Judgement] = []
    with ThreadPoolExecutor(concurrency) as pool:
        pending = [pool.submit(_ask, author, *one) for one in asked]
        try:
            for one in pending:
                found.append(one.result())
                on_progress(len(found), len(asked))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return found


def _ask(author: Author, candidate: Candidate, swapped: bool, repeat: int) -> Judgement:
    a, b = (candidate.other, candidate.story) if swapped else (candidate.story, candidate.other)
    reply = author.ask(rubric.messages(candidate.images, a, b), None, repeat, rubric.schema())
    read = rubric.read(reply.text)
    place = candidate.name, candidate.story_id, swapped, repeat
    if read is None or reply.refused:
        return Judgement(*place, None, None, _why_not(reply))
    ratings, other = reversed(read) if swapped else read
    return Judgement(*place, ratings, other)


def _why_not(reply: Reply) -> str:
    if reply.refused:
        return reply.refused
    return "the reply was cut off at the token limit" if reply.cut else "the reply is not the JSON that was asked for"
