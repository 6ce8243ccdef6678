"""The exports of the package: enough to read, check and write an answer, without heavy imports."""

import subprocess
import sys

from storyreason import format


def test_an_answer_is_built_written_read_and_checked_by_the_exported_names() -> None:
    mara = format.Character("char1", "Mara", "A woman", "Calm", "Waiting", "Protagonist", format.Box(5, 5, 20, 35))
    ball = format.Object("obj1", "A ball", "Toy", "Near Mara", "Detail", format.Box(30, 20, 40, 30))
    place = format.Setting(format.SETTING_ELEMENTS[0], "A beach", "Quiet", "Noon", "Opens")
    phases = tuple(format.Phase(name, "It goes on", "-", (1,)) for name in format.PHASES)
    thought = format.Analysis((format.Section(1, (mara,), (ball,), (place,)),), phases)
    told = format.Story((format.Passage(1, (format.Mention("gdo", ("char1",), "Mara"), " waited.")),))

    text = format.render(thought, told)
    answer = format.read(text)

    assert (answer.analysis, answer.story) == (thought, told)
    assert format.is_valid(format.check(answer, [(60, 40)]))
    assert format.join(answer.chain_of_thought, answer.story_text) == text
    reader = format.Reader()
    assert [found.image for found in reader.feed(text)][:2] == [1, 1]
    assert reader.close() == answer


def test_every_exported_name_is_there() -> None:
    assert [name for name in format.__all__ if not hasattr(format, name)] == []
    assert {format.kind_of(id) for id in ("char1", "obj1", "lm1", "bg1")} == set(format.KINDS)


def test_the_room_brings_nothing_heavy() -> None:
    heavy = ["numpy", "PIL", "torch", "pydantic"]
    code = f"import sys, storyreason.format; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
