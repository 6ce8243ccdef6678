"""Everything written under the grammars is a valid answer: random texts, letter by letter, also after a cut."""

import random
from dataclasses import dataclass

import pytest
import xgrammar

from storyreason import dataset
from storyreason.format import analysis, answer, rules
from storyreason.format.boxes import Box
from storyreason.format.naming import Naming
from storyreason.format.tables import Character, Object
from storyreason.generation import GenerationConfig, grammar, grounded
from storyreason.generation.openai import Completion

SIZES = [(196, 112), (100, 99), (575, 240)]
END = 256


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small limits, so that texts of random letters stay short."""
    for name, most in (("CELL", 6), ("SPAN", 6), ("PLAIN", 12), ("MENTIONS", 6)):
        monkeypatch.setattr(grammar, name, most)
    monkeypatch.setattr(grammar, "MOST", {"char": 12, "obj": 3, "lm": 2, "bg": 2})


@pytest.fixture(scope="module")
def compiler() -> xgrammar.GrammarCompiler:
    """A compiler for a vocabulary with one token per byte."""
    tokens = [*(bytes([byte]) for byte in range(256)), b"</s>"]
    return xgrammar.GrammarCompiler(xgrammar.TokenizerInfo(tokens, stop_token_ids=[END]))


def accepts(compiler: xgrammar.GrammarCompiler, rules_: str, text: str) -> bool:
    matcher = xgrammar.GrammarMatcher(compiler.compile_grammar(rules_))
    return all(map(matcher.accept_token, text.encode())) and matcher.accept_token(END)


def write(
    compiler: xgrammar.GrammarCompiler, rules_: str, luck: random.Random, most: int = 100_000, often: str = ""
) -> str:
    """A random text under a grammar, cut after `most` letters. Three of four are one of `often`, where that is allowed."""
    matcher = xgrammar.GrammarMatcher(compiler.compile_grammar(rules_))
    mask = xgrammar.allocate_token_bitmask(1, END + 1)
    written: list[int] = []
    while len(written) < most:
        matcher.fill_next_token_bitmask(mask)
        words = [word & 0xFFFFFFFF for word in mask[0].tolist()]
        allowed = [token for token in (*range(128), END) if words[token // 32] >> token % 32 & 1]
        liked = [token for token in allowed if chr(token) in often] if luck.random() < 0.75 else []
        token = luck.choice(liked or allowed)
        matcher.accept_token(token)
        if token == END:
            break
        written.append(token)
    return bytes(written).decode()


def write_analysis(compiler: xgrammar.GrammarCompiler, luck: random.Random, most: int = 100_000) -> tuple[str, bool]:
    """A random analysis, section by section, cut after `most` letters; also returns whether it is complete."""
    text = ""
    for number in range(len(SIZES)):
        before = analysis.read(text)[0].sections[:number]
        text += write(compiler, grammar.of_section(SIZES, before), luck, most - len(text))
        if len(text) >= most:
            return text, False
    return text, True


@pytest.mark.parametrize("seed", range(8))
def test_what_is_written_at_random_under_the_grammars_is_valid(compiler: xgrammar.GrammarCompiler, seed: int) -> None:
    luck = random.Random(seed)
    read, problems = analysis.read(write_analysis(compiler, luck)[0])
    mended, count = grounded._mend(read, SIZES)
    told = write(compiler, grammar.of_story(mended), luck)

    whole = answer.read(answer.join(analysis.render(mended), told))
    found = rules.check(whole, SIZES)
    assert not problems
    assert rules.is_valid(found, grounded=True), found[:3]
    assert not [problem for problem in found if problem.rule in ("tag-kind", "box-over-edge", "setting-element")]
    # Half of all random boxes have swapped corners in x, half in y: most are repaired.
    boxes = [row.box for section in read.sections for row in section.entities]
    assert count == sum(box is None or box.x1 >= box.x2 or box.y1 >= box.y2 for box in boxes)


@pytest.mark.parametrize("seed", range(24))
def test_an_answer_that_was_cut_anywhere_is_ended_as_a_valid_one(compiler: xgrammar.GrammarCompiler, seed: int) -> None:
    luck = random.Random(seed)
    cut, _ = write_analysis(compiler, luck, most=luck.randrange(4000))
    written, _ = analysis.read(cut.rpartition("\n")[0])
    thought = analysis.render(written)
    if rest := grammar.end_of_analysis(SIZES, written):
        thought += write(compiler, rest, luck)
    mended, _ = grounded._mend(analysis.read(thought)[0], SIZES)

    told = grounded._without_open_tag(write(compiler, grammar.of_story(mended), luck, most=luck.randrange(300)))
    if rest := grammar.end_of_story(mended, told):
        told += write(compiler, rest, luck)

    found = rules.check(answer.read(answer.join(analysis.render(mended), told)), SIZES)
    assert rules.is_valid(found, grounded=True), (found[:3], told)


@dataclass
class Letters:
    """An engine that writes random letters one by one, and counts tokens of four."""

    compiler: xgrammar.GrammarCompiler
    luck: random.Random

    def session(self, images: object, config: object) -> "Letters":
        return self

    def count(self, text: str) -> int:
        return len(text) // 4

    def room(self, stop: object = None) -> int:
        return 100_000

    def tell(self, *, grammar: str, max_tokens: int, **_: object) -> Completion:
        text = write(self.compiler, grammar, self.luck, max_tokens)
        return Completion(text, len(text) == max_tokens, 10, len(text))


@pytest.mark.parametrize("seed", range(4))
def test_an_ending_that_is_written_letter_by_letter_is_whole_if_the_context_leaves_room(
    compiler: xgrammar.GrammarCompiler, seed: int, frames: tuple[bytes, ...]
) -> None:
    engine, config = Letters(compiler, random.Random(seed)), GenerationConfig(max_tokens=1500)
    told = grounded.tell(engine, frames[:3], config)  # type: ignore[arg-type]
    found = rules.check(answer.read(told.text), [(196, 112)] * 3)

    assert told.ended
    assert not told.cut
    assert rules.is_valid(found, grounded=True), found[:3]


NAMED = """\
## Image 1

### Characters
| Character ID | Name | Description | Emotions | Actions | Narrative Function | Bounding Box |
|--------------|------|-------------|----------|---------|-------------------|--------------|
| char1 | Tom Mo | A man | Calm | Standing | Protagonist | 1,1,9,9 |
| char2 | Tam | A Roma woman | Calm | Standing | Friend | 1,1,9,9 |
| char3 | - | A man | Calm | Standing | Friend | 1,1,9,9 |

### Objects
| Object ID | Description | Function | Interaction | Narrative Function | Bounding Box |
|-----------|-------------|----------|------------|-------------------|--------------|
| obj1 | Motor | Vehicle | Near Tom | Detail | 1,1,9,9 |
| lm1 | The Tor | Landmark | Far away | Scenery | 1,1,9,9 |"""


@pytest.mark.parametrize("seed", range(12))
def test_no_continuation_calls_an_entity_by_a_name_that_is_not_its_own(
    compiler: xgrammar.GrammarCompiler, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given: limits that leave room for names, and letters that make them likely
    monkeypatch.setattr(grammar, "SPAN", 20)
    monkeypatch.setattr(grammar, "MENTIONS", 40)
    luck, read = random.Random(seed), analysis.read(NAMED)[0]

    told = write(compiler, grammar.of_story(read), luck, often="TTTMMMRRoooaaam. ',<>gdo char12")

    whole = answer.read(answer.join(NAMED, told))
    assert whole.story is not None
    mentions = [part for part in whole.story.passages[0].parts if not isinstance(part, str)]
    assert any(any(map(str.isupper, mention.text)) for mention in mentions)
    assert not {problem.rule for problem in rules.check(whole, None)} & {"name-changed", "name-foreign"}


@pytest.mark.parametrize("seed", range(8))
def test_no_continuation_gives_a_person_another_name(compiler: xgrammar.GrammarCompiler, seed: int) -> None:
    luck, (first,) = random.Random(seed), analysis.read(NAMED)[0].sections
    text = analysis.render(analysis.Analysis((first,))) + "\n\n## Image 2"

    text += write(compiler, grammar.of_section(SIZES, (first,)), luck, often="|chr123 TomaM")

    read, _ = analysis.read(text)
    assert not Naming(read.sections).changes
    names = {row.id: row.name for row in first.characters}
    assert all(row.name == names.get(row.id, row.name) for row in read.sections[1].characters)


@pytest.mark.parametrize(
    ("told", "accepted"),
    [
        ("<gdo char1>Tom</gdo>", True),
        ("<gdo char1>The man Tom, tired,</gdo>", True),
        ("<gdo char2>Roma</gdo>", True),
        ("<gdo char1>Tam</gdo>", False),
        ("<gdo char1>Tomas</gdo>", False),
        ("<gdo char1>Leo</gdo>", False),
        ("<gdo char1 char2>Tam and Tom</gdo>", True),
        ("<gdo char3 char1 char2>Tom, Tam and the man</gdo>", True),
        ("<gdo char1 char3>Tam</gdo>", False),
        ("<gdo char1 obj1>Tom and Motor</gdo>", False),
        ("<gdo obj1 char1>Tom</gdo>", False),
        ("<gdo obj1>Tom's old Motor</gdo>", True),
        ("<gdo obj1>Tom</gdo>", False),
        ("<gdo obj1>Wheels</gdo>", True),
        ("there <gdo obj1>Wheels</gdo>", False),
        ("It rained. <gdo obj1>Wheels</gdo>", True),
        ("<gdl lm1>The Tor</gdl>", True),
        ("at <gdl lm1>Paris</gdl>", False),
        ("<gda char1>Smiling</gda>", True),
        ("<gda char1>Tom</gda>", True),
        ("<gdo char1>\u00c9va</gdo>", False),
        ("<gdo char1>\u00e9l\u0101</gdo>", True),
    ],
)
def test_who_may_be_called_what(
    compiler: xgrammar.GrammarCompiler, monkeypatch: pytest.MonkeyPatch, told: str, accepted: bool
) -> None:
    monkeypatch.undo()
    read, _ = analysis.read(NAMED)
    text = f"<gdi image1>\n{told} end.\n</gdi>"
    assert accepts(compiler, grammar.of_story(read), text) == accepted
    broken = any(one.rule == "name-foreign" for one in rules.check(answer.read(answer.join(NAMED, text)), None))
    assert not (accepted and broken), "a grammar never allows what a rule forbids"


def test_the_sample_stories_fit_their_grammars(
    compiler: xgrammar.GrammarCompiler, examples: list[dataset.Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    for example in examples:
        sizes = dataset.sizes(example)
        read, _ = analysis.read(example.chain_of_thought)
        rest = example.chain_of_thought
        for number in range(1, len(sizes) + 1):
            head = f"\n\n## Image {number + 1}"
            begun, found, after = rest.partition(head)
            assert accepts(compiler, grammar.of_section(sizes, read.sections[: number - 1]), begun + found), number
            rest = after
        assert accepts(compiler, grammar.of_story(read), example.story)


@pytest.mark.parametrize("most", [1, 7, 9, 10, 99, 100, 112, 196, 575, 1920])
def test_box_corners_are_whole_numbers_within_the_frame(compiler: xgrammar.GrammarCompiler, most: int) -> None:
    rules_ = f"root ::= {grammar._up_to(most)}\n"
    accepted = [number for number in range(10 * most + 20) if accepts(compiler, rules_, str(number))]
    assert accepted == list(range(most + 1))
    assert not accepts(compiler, rules_, "00")
    assert not accepts(compiler, rules_, "-1")


def test_an_entity_of_another_image_or_in_the_wrong_tag_is_refused(
    compiler: xgrammar.GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    box = Box(0, 0, 9, 9)
    person = Character("char1", "Mara", "A woman", "Calm", "Standing", "Protagonist", box)
    beach = Object("bg1", "The beach", "Background", "Far away", "Scenery", box)
    of = grammar.of_story(analysis.Analysis((analysis.Section(1, (person,)), analysis.Section(2, (), (beach,)))))

    def told(first: str, second: str) -> str:
        return f"<gdi image1>\n{first}\n</gdi>\n\n<gdi image2>\n{second}\n</gdi>"

    right, place = "<gdo char1>Mara</gdo> <gda char1>sat</gda>.", "<gdl bg1>The beach</gdl> lay there."
    assert accepts(compiler, of, told(right, place))
    assert accepts(compiler, of, told("Nobody.", "Nothing."))
    assert not accepts(compiler, of, told(right, right)), "char1 is not in image 2"
    assert not accepts(compiler, of, told(right, "<gdo bg1>The beach</gdo>")), "a background is no actor"
    assert not accepts(compiler, of, told("<gdo char1>Mara", place)), "unclosed"
    assert not accepts(compiler, of, told("<gdo char1>a <gda char1>b</gda></gdo>", place)), "nested"
