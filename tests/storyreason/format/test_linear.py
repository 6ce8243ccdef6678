"""Reading takes time in proportion to the text, whatever a model or a client writes."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import storyreason

LENGTH = 400_000
"""Characters. What is quadratic in them takes hours."""
SECONDS = 20
"""CPU time of one subprocess for all contexts of a text: several times what linear reading needs on a slow machine."""

READ = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_CPU, ({SECONDS}, {SECONDS}))
from storyreason.format import answer, rules, words
from storyreason.format.story import without_tags

piece = eval(sys.argv[1])
text = piece * ({LENGTH} // len(piece))
opening = "<think>\\n## Image 1\\n### Characters\\n"
closing = "\\n</think>\\n<gdi image1>\\n"
for hostile in (
    text,
    opening + "| " + text,
    opening + closing + "<" + text,
    opening + closing + "<gdo " + text,
    opening + closing + "<gdo char1>" + text,
):
    reader = answer.Reader()
    for start in range(0, len(hostile), 50_000):
        reader.feed(hostile[start : start + 50_000])
    rules.check(reader.close(), [(100, 100)])
    without_tags(hostile)
    words.words(hostile)
"""


@pytest.mark.server
@pytest.mark.parametrize(
    "piece",
    [
        " ", "\n", "\t", "<", "<\n", "< /", "/", ">", "</gdo>", "<gdo char1>", "<gdi image1>", "gd", "|", "| ", "\\|",
        "-", "#", "1", "1,", "1 - ", "-1 ,", "a", "A a ", "a'", "\u2019", "\u2028", "image ", "char1 ", "I ",
    ],
)  # fmt: skip
def test_a_hostile_text_is_read_in_linear_time(piece: str) -> None:
    done = subprocess.run([sys.executable, "-c", READ, repr(piece)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr or f"stopped after {SECONDS} s of CPU"


MODULES = (
    "format.analysis", "format.answer", "format.boxes", "format.naming", "format.rules", "format.story", "format.tables",
    "format.words", "page.entities", "page.gallery", "page.view", "generation.grounded", "scoring.catalogue",
    "scoring.length", "serving.limits", "serving.passthrough",
)  # fmt: skip
"""Every module whose patterns meet what a model or a client wrote."""
FOR_SHORT_TEXTS = {
    "format.story._IMAGE": "the inside of a tag, which has 1000 characters at most",
    "format.naming.SENTENCE_START": "the 40 characters before a mention",
}

SEARCH = f"""
import importlib, re, resource, sys
resource.setrlimit(resource.RLIMIT_CPU, ({SECONDS}, {SECONDS}))
pieces = eval(sys.argv[2])
pattern = getattr(importlib.import_module("storyreason." + sys.argv[1].rpartition(".")[0]), sys.argv[1].rpartition(".")[2])
for piece in pieces:
    for start, end in (("", ""), ("<gdo ", ">"), ("<gdo char1>", "x"), ('"', "")):
        text = start + piece * ({LENGTH // 2} // len(piece)) + end
        pattern.sub("", text) if isinstance(pattern.pattern, str) else pattern.sub(b"", text.encode())
"""


def patterns() -> list[str]:
    """All compiled patterns of these modules, by name."""
    found = []
    for module in MODULES:
        of = vars(importlib.import_module(f"storyreason.{module}"))
        found += [f"{module}.{name}" for name, value in of.items() if isinstance(value, re.Pattern)]
    return found


def test_no_module_is_forgotten() -> None:
    """A pattern elsewhere is read here by a person first: does it meet a text from outside?"""
    root = Path(storyreason.__file__).parent
    with_patterns = {
        path.relative_to(root).with_suffix("").as_posix().replace("/", ".")
        for room in ("format", "page", "scoring", "serving", "generation")
        for path in (root / room).rglob("*.py")
        if "re.compile(" in path.read_text()
    }
    assert with_patterns <= set(MODULES)


@pytest.mark.parametrize("name", [name for name in patterns() if name not in FOR_SHORT_TEXTS])
def test_a_pattern_takes_linear_time(name: str) -> None:
    pieces = [
        " ",
        "\n",
        "<",
        "<\n",
        "< /",
        "/",
        ">",
        "<gdo ",
        "<gdo a>",
        "</gdo>",
        "|",
        "\\|",
        "\\",
        '"',
        "1",
        "1,",
        "1 - ",
        "a",
        "a'",
        "I ",
    ]
    done = subprocess.run([sys.executable, "-c", SEARCH, name, repr(pieces)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr or f"stopped after {SECONDS} s of CPU"
