"""Reading takes time in proportion to the text, whatever a model or a client writes."""

import subprocess
import sys

import pytest

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
