"""Stories of recognized films, asked of an endpoint that fails in each way."""

import re
import threading
from pathlib import Path
from typing import Any

import pytest

from storyreason import dataset
from storyreason.authoring.calls import Author, Budget, Reply
from storyreason.authoring.config import AuthoringConfig
from storyreason.authoring.windows import Window, recognized, windows
from storyreason.authoring.writing import Written, write
from storyreason.errors import ConfigError, EngineAwayError
from storyreason.format import answer, boxes, is_valid, rules
from storyreason.perception import frames
from tests.storyreason.authoring import films, scripted
from tests.storyreason.authoring.scripted import Endpoint, Response, Script, error, in_turn, reply, right

FILM = "red-lantern-482"


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> tuple[Window, ...]:
    """The two windows of a film."""
    folder = films.write(tmp_path_factory.mktemp("film"), films=2)
    seen = recognized(folder / "detections.parquet", folder / "ids.parquet")
    return windows(seen.shots(list(frames.read(folder, FILM)))).windows


class Run:
    """A film written once; the endpoint and the budget are looked at afterwards."""

    def __init__(self, film: tuple[Window, ...], folder: Path, script: Script, **settings: Any) -> None:
        settings = {"grammars": False, "pause": 0, "retries": 2, "concurrency": 1, **settings}
        self.endpoint: Endpoint
        with scripted.endpoint(script) as self.endpoint:
            config = AuthoringConfig(endpoint=self.endpoint.url, **settings)
            self.budget = Budget(config)
            self.written: Written = write(Author(config, folder, self.budget), config, film)

    @property
    def left_out(self) -> list[tuple[str, str, str]]:
        return [(one.story_id, one.part, one.rule) for one in self.written.left_out]


def valid(example: dataset.Example) -> bool:
    told = answer.read(answer.join(example.chain_of_thought, example.story))
    return is_valid(rules.check(told, dataset.sizes(example)), grounded=True)


def test_boxes_ids_and_names_are_given_and_hold_over_the_film(film: tuple[Window, ...], tmp_path: Path) -> None:
    run = Run(film, tmp_path, lambda body, _: right(body))

    assert [one.story_id for one in run.written.examples] == [f"{FILM}-1", f"{FILM}-2"] and not run.left_out
    assert all(map(valid, run.written.examples))
    for window, example in zip(film, run.written.examples, strict=True):
        told = answer.read(answer.join(example.chain_of_thought, example.story)).analysis
        assert told is not None
        for shot, section in zip(window.shots, told.sections, strict=True):
            assert {(row.id, row.box) for row in section.entities} == {(one.entity, one.box) for one in shot.seen}
            assert all(row.name == run.written.names[row.id] for row in section.characters)
    assert run.budget.spent.calls == len(run.endpoint.bodies) == 4
    assert run.budget.spent.prompt_tokens == 4000


def test_what_the_model_says_of_boxes_is_not_asked(film: tuple[Window, ...], tmp_path: Path) -> None:
    def moved(body: dict[str, Any], _: int) -> str:
        return re.sub(r"\d+,\d+,\d+,\d+ \|", "1,1,2,2 |", right(body))

    run = Run(film[:1], tmp_path, moved)
    (example,) = run.written.examples
    assert "1,1,2,2" not in example.chain_of_thought and boxes.parse("1,1,2,2") is not None


def test_what_is_wrong_is_named_with_its_place_and_sent_back(film: tuple[Window, ...], tmp_path: Path) -> None:
    wrong = "\n".join(["## Image 1", "| char1 | Nobody |"])

    def script(body: dict[str, Any], number: int) -> str:
        if number == 0:
            return wrong
        if number == 2:  # the first attempt at the story
            return right(body).replace("<gdo char1>", "<gdo char77>", 1)
        return right(body)

    run = Run(film[:1], tmp_path, script)
    assert len(run.written.examples) == 1 and len(run.endpoint.bodies) == 4
    again = scripted.texts(run.endpoint.bodies[1])
    assert again[-2] == wrong and "- image 1, line 2: table-shape: This row is not below" in again[-1]
    assert re.search(r"- image \d: given-missing: \w+ was given and has no row\.", again[-1])
    again = scripted.texts(run.endpoint.bodies[3])
    assert re.search(r"- image \d, line \d+: id-unknown: char77 is not in the analysis\.", again[-1])


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda text: re.sub(r"\| (char\d) \| \w+ \|", r"| \1 | Same |", text), "name-taken"),
        (lambda text: re.sub(r"\| (char\d) \| \w+ \|", r"| \1 | a man in a hat |", text), "name-missing"),
        (lambda text: text.replace("| char1 |", "| char99 |"), "given-unknown"),
        (lambda text: text.replace("| Location |", "| Somewhere |"), "setting-element"),
        (lambda text: text.replace("| Conflict |", "| Quarrel |"), "phase-missing"),
        (lambda text: re.sub(r"A detail \d+", "…", text, count=1), "cell-empty"),
        (lambda text: re.sub(r"A detail \d+", "a </think> b", text, count=1), "cell-text"),
        (lambda text: "I cannot help with that.", "given-missing"),
        (lambda text: "", "given-missing"),
    ],
)
def test_an_invalid_analysis_is_left_out_and_never_kept(
    change: Any, rule: str, film: tuple[Window, ...], tmp_path: Path
) -> None:
    run = Run(film[1:], tmp_path, lambda body, _: change(right(body)))
    assert run.written.examples == () and run.left_out == [(f"{FILM}-2", "analysis", rule)]
    assert len(run.endpoint.bodies) == 3


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda text: text.replace("<gdi image2>", "<gdi image3>"), "story-images"),
        (lambda text: text.replace("</gdo>", "", 1), "tag-nested"),
        (lambda text: re.sub("</?gd[oal][^>]*>", "", text), "story-ungrounded"),
        (lambda text: text.replace("the one", "Zacharias"), "name-foreign"),
        (lambda text: "Once upon a time.", "text-outside-image"),
    ],
)
def test_an_invalid_story_is_left_out_and_never_kept(
    change: Any, rule: str, film: tuple[Window, ...], tmp_path: Path
) -> None:
    def script(body: dict[str, Any], _: int) -> str:
        return change(right(body)) if scripted.asks_for_a_story(body) else right(body)

    run = Run(film[1:], tmp_path, script)
    assert run.written.examples == ()
    assert run.left_out == [(f"{FILM}-2", "story", rule)]


@pytest.mark.parametrize(
    "failure",
    [
        error(429, "slow down", **{"retry-after": "0"}),
        error(503, "busy"),
        *(error(status, "a proxy's own") for status in (501, 520, 522, 524, 529, 599)),
        Response(200, "<html>a proxy</html>"),
        Response(200, '{"choices": []}'),
        Response(200, reply("## Image 1").body, cut=True),
    ],
    ids=["rate", "busy", "501", "520", "522", "524", "529", "599", "nonsense", "empty", "cut"],
)
def test_a_failure_that_passes_is_asked_again(failure: Response, film: tuple[Window, ...], tmp_path: Path) -> None:
    run = Run(film[:1], tmp_path / "kept", in_turn([failure, failure]))
    assert len(run.written.examples) == 1 and len(run.endpoint.bodies) == 4 and run.budget.spent.calls == 2
    with pytest.raises(EngineAwayError, match="3 times: start again when it is there"):
        Run(film[:1], tmp_path / "none", lambda *_: failure)


def test_an_endpoint_that_is_too_slow_is_given_up(film: tuple[Window, ...], tmp_path: Path) -> None:
    over = threading.Event()

    def script(body: dict[str, Any], _: int) -> str:
        over.wait(60)
        return right(body)

    with scripted.endpoint(script) as slow:
        config = AuthoringConfig(endpoint=slow.url, grammars=False, timeout=0.2, retries=0)
        with pytest.raises(EngineAwayError, match="did not answer"):
            write(Author(config, tmp_path, Budget(config)), config, film)
        over.set()


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_a_wrong_key_or_model_ends_it_at_once(status: int, film: tuple[Window, ...], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{status}: no such thing. See whether the key"):
        Run(film, tmp_path, lambda *_: error(status, "no such thing"))


def test_refusals_are_counted_and_others_go_on(film: tuple[Window, ...], tmp_path: Path) -> None:
    refusal = reply("", refusal="I would rather not.")
    filtered = reply("I", finish="content_filter")
    run = Run(film, tmp_path, in_turn([refusal, filtered, refusal]))
    assert run.left_out == [(f"{FILM}-1", "analysis", "refused")] and len(run.written.examples) == 1
    assert run.written.left_out[0].message == "I would rather not." and run.budget.spent.refused == 3

    again = Run(film, tmp_path, in_turn([error(400, "too long")]))  # what was refused is kept as well
    assert again.endpoint.bodies == [] and again.budget.spent == run.budget.spent.__class__(**{
        **{name: getattr(run.budget.spent, name) for name in run.budget.spent.__slots__}, "kept": run.budget.spent.calls
    })  # fmt: skip


def test_a_rejected_request_is_not_repeated_and_not_kept(film: tuple[Window, ...], tmp_path: Path) -> None:
    run = Run(film[:1], tmp_path, lambda *_: error(400, "the prompt is too long"))
    assert run.left_out == [(f"{FILM}-1", "analysis", "refused")] and len(run.endpoint.bodies) == 1
    assert Run(film[:1], tmp_path, lambda body, _: right(body)).left_out == []


def test_a_reply_that_was_cut_off_is_never_kept(film: tuple[Window, ...], tmp_path: Path) -> None:
    run = Run(film[:1], tmp_path, lambda body, _: reply(right(body), finish="length"))
    assert run.left_out == [(f"{FILM}-1", "analysis", "answer-truncated")]


def test_it_ends_before_it_costs_too_much_and_goes_on_where_it_was(film: tuple[Window, ...], tmp_path: Path) -> None:
    prices = {"price_in": 1000.0, "price_out": 0.0}  # a call costs 1.00
    with pytest.raises(ConfigError, match=r"max_cost = 2 is not enough: \d.\d+ is spent"):
        Run(film, tmp_path, lambda body, _: right(body), max_cost=2.0, **prices)
    paid = len(list(tmp_path.glob("*.json")))
    assert 0 < paid <= 2
    run = Run(film, tmp_path, lambda body, _: right(body), max_cost=20.0, **prices)
    assert len(run.endpoint.bodies) == 4 - paid and run.budget.spent.cost == 4.0 and run.budget.spent.kept == paid


def test_a_call_waits_for_those_under_way_and_not_for_money_that_is_spent() -> None:
    budget = Budget(AuthoringConfig(price_out=1e6, max_cost=1.0))  # a token costs 1.00
    told, done = list[str](), threading.Event()

    def second() -> None:
        budget.reserve(0.6)
        told.append("reserved")
        done.set()

    budget.reserve(0.3)
    budget.reserve(0.6)
    waiting = threading.Thread(target=second, daemon=True)
    waiting.start()
    assert not done.wait(0.2) and waiting.is_alive()
    budget.settle(0.3, None)
    assert not done.wait(0.2) and waiting.is_alive()
    budget.settle(0.6, None)  # it cost nothing
    assert done.wait(10) and told == ["reserved"]
    budget.settle(0.6, Reply("", False, "", 0, 1))
    with pytest.raises(ConfigError, match=r"max_cost = 1 is not enough: 1.0000 is spent"):
        budget.reserve(0.1)


def test_an_endpoint_that_counts_no_tokens_is_counted_by_estimate(film: tuple[Window, ...], tmp_path: Path) -> None:
    run = Run(film[:1], tmp_path, lambda body, _: reply(right(body), usage=False))
    assert run.budget.spent.prompt_tokens > 500 and run.budget.spent.tokens > 100


def test_requests_keep_a_distance(film: tuple[Window, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("storyreason.authoring.calls.time.sleep", waits.append)
    Run(film, tmp_path, lambda body, _: right(body), requests_per_minute=6)
    assert len(waits) == 4 and 25 < waits[-1] <= 30
