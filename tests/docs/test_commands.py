"""Every command of README and docs is run by a test, or says why not; the cheap ones are run here, in a clone."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from storyreason import dataset, sample
from tests.docs import commands
from tests.docs.commands import Command
from tests.system.conftest import free_port

BIN = Path(sys.executable).parent
WRITER = {f"GIT_{role}_{what}": "docs@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
ANSWER = "<think>\n## Image 1\n</think>\n<gdi image1>\nNothing.\n</gdi>"


@pytest.mark.parametrize("command", commands.commands(), ids=str)
def test_every_command_is_run_by_a_test_or_says_why_not(command: Command) -> None:
    assert command.run_by


def test_a_command_that_no_test_knows_is_refused() -> None:
    with pytest.raises(LookupError, match=r"README.md:1: no test runs `storyreason dance`"):
        _ = Command("storyreason dance", "README.md", 1).run_by


@pytest.mark.parametrize("where", [commands.UP])
def test_a_test_that_is_named_calls_the_command(where: str) -> None:
    text = (commands.REPOSITORY / where).read_text()
    for command in commands.run_by(where):
        assert ", ".join(f'"{word}"' for word in command.words[1:]) in text, command


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone as the working tree is, a data set of four stories as its data, answers to score, what pages save."""
    folder = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(commands.REPOSITORY), str(folder)], check=True)
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(
        listed, cwd=commands.REPOSITORY, check=True, capture_output=True, text=True
    ).stdout.split():
        if (commands.REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(commands.REPOSITORY / name, folder / name)
    test = list(sample.examples("test", films=1))
    dataset.write(test, folder / "data", "test")
    dataset.write(sample.examples("train", films=1), folder / "data", "train")
    subprocess.run([BIN / "dvc", "-q", "add", "data"], cwd=folder, check=True)
    for name in ("answers", "other-answers"):
        (folder / "runs" / name).mkdir(parents=True)
        for example in test:
            (folder / "runs" / name / f"{example.story_id}.txt").write_text(ANSWER)
    for page in ("tutorial.md", "films.md"):
        for name, code in commands.scripts(folder / "docs" / page).items():
            (folder / name).write_text(code)
    return folder


@pytest.mark.server
def test_the_commands_run(clone: Path, subtests: pytest.Subtests) -> None:
    """In the order of the docs: a page's commands build on one another."""
    for command in commands.commands():
        if command.run_by == commands.HERE:
            with subtests.test(str(command)):
                _run(command, clone)


def _run(command: Command, clone: Path) -> None:
    program, *arguments = command.words
    if program == "make":  # what its targets run is tested elsewhere: here, that there are such targets
        arguments = ["-n", *arguments]
    elif (BIN / program).exists():
        program = str(BIN / program)
    # Words in capitals stand for something of the reader's.
    own = {"FOLDER": _stories(clone / "runs" / "own"), "SOURCE": clone / "data"}
    words = [str(own.get(word, word)) for word in arguments]
    environment = {**os.environ, **WRITER, "STORYREASON_GATEWAY_PORT": str(free_port())}
    done = subprocess.run([program, *words], cwd=clone, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def _stories(folder: Path) -> Path:
    """A folder with a story that the data does not have."""
    if not folder.exists():
        (example, *_) = sample.examples("train", seed=5, films=1)
        dataset.write([replace(example, story_id="joining-1")], folder, "train")
    return folder


def test_the_page_on_the_published_data_tries_the_sample_before_it_is_replaced() -> None:
    page = (commands.REPOSITORY / "docs" / "storyreasoning.md").read_text()
    in_order = (
        "make retrain",
        "evaluate base --preset sample",
        "dvc pull",
        "dvc remote add",
        "dvc push",
        "data import",
    )
    places = [page.index(command) for command in in_order]
    assert places == sorted(places)


def test_dvc_is_called_in_the_environment() -> None:
    assert [one for one in commands.commands() if one.text.startswith("dvc ")] == []
