from hypothesis import given
from hypothesis import strategies as st

from storyreason.format import story
from storyreason.format.words import PRONOUNS, Names, offsets, untagged


def words(text: str, names: tuple[str, ...] = ()) -> list[tuple[str, str | None]]:
    (passage,) = story.read(f"<gdi image1>\n{text}\n</gdi>")[0].passages
    return [(word.text, word.pronoun) for word in untagged(passage, Names(names))]


def test_pronouns_of_persons_by_their_first_form() -> None:
    text = 'Then he\'s gone. "I told them," she said, "it was hers."'
    assert words(text) == [("he", "he"), ("I", "I"), ("them", "they"), ("she", "she"), ("hers", "she")]
    assert PRONOUNS["himself"] == "he" and "it" not in PRONOUNS


def test_what_stands_in_a_tag_is_tagged() -> None:
    assert words("<gdo char1>She</gdo> <gda char1>took her coat</gda>.") == []


def test_names_are_whole_and_capital() -> None:
    names = ("Sarah", "John Smith", "John", "-", "Unknown", "woman", "Mara")
    text = "Sarah met John Smith. John and a woman, Unknown, told Saraha and mara."
    assert words(text, names) == [("Sarah", None), ("John Smith", None), ("John", None)]


def test_offsets_are_where_parts_begin_in_the_text() -> None:
    text = "<gdi image1>\n a <gdo char1>b</gdo> c</gdo> d <gda char1>e</gda> a.\n</gdi>"
    (passage,) = story.read(text)[0].passages
    assert [text[place:][:4] for place in offsets(passage, text)] == [" a <", "<gdo", " c</", "<gda", " a.\n"]


def test_a_part_is_not_sought_all_over_the_text() -> None:
    text = f"<gdi image1>a</gdo>b</gdi>{' ' * 10_000}<gdi image2>ab</gdi>"
    (passage, _) = story.read(text)[0].passages
    assert passage.parts == ("ab",)
    assert offsets(passage, text) == [text.index("a</gdo>")]


said = st.lists(st.sampled_from(["Sarah", "John", "Smith", "Mara", "ran", "she", "."]), min_size=1, max_size=6)


@given(
    said, st.lists(st.lists(st.sampled_from(["Sarah", "John", "Smith", "Mara"]), min_size=1, max_size=3), max_size=3)
)
def test_a_name_is_found_just_where_it_stands(told: list[str], named: list[list[str]]) -> None:
    names = {" ".join(name) for name in named}
    said = [word for word in told if word != "."]  # punctuation does not part the words of a name
    place, expected = 0, []
    while place < len(said):
        length = max((len(n) for n in named if said[place : place + len(n)] == n), default=0)
        expected += [said[place : place + length]] if length else []
        place += length or 1
    found = [text for text, pronoun in words(" ".join(told), tuple(names)) if pronoun is None]
    assert [text.replace(".", "").split() for text in found] == expected
