"""The commands of README and docs, and which test runs each of them.

A command is a line of a fenced `bash` block, or of the docstring of a script. Where it is run follows from `RUNS`, in order;
a command that nothing there matches fails `test_commands.py`, which runs what is cheap. `tests/system` runs what needs the
pipeline.
"""

import ast
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PAPERS = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")])
NOT_RUN = "not run by our tests: "
"""How a command that no test runs is marked in the docs, followed by the reason."""

HERE, LINE, NOWHERE = "tests/docs/test_commands.py", "tests/system/test_line.py", "nowhere"
UP = "tests/system/test_up.py"
WORK_POOL = "tests/system/test_work_pool.py"
JUDGE = "tests/storyreason/cli/test_judge.py"
RUNS = {
    r"make .*": HERE,
    r"python -m pytest .*": HERE,
    r".*--(help|version)": HERE,
    r"python make_(data|detections)\.py .*": HERE,
    r"python docs/reference\.py.*": HERE,
    r"storyreason score .* --protocol paper": HERE,
    r"storyreason (check|page|stats|score|read|sample data|sample film|frames|detect|identify) .*": HERE,
    r"storyreason data (add|import) [A-Za-z/-]*": HERE,
    r"dvc (pull|push)": HERE,
    r"storyreason data publish .* --dry-run": HERE,
    r"git apply -C1 tests/docs/recipes/.*": HERE,
    r"git (add data\.dvc|commit) .*": HERE,
    r"storyreason (clean|status|doctor).*": HERE,
    r"storyreason (backup|restore) .*": "tests/tasks/test_backup.py",
    r"storyreason preset .*": HERE,
    r"storyreason (retrain sample|evaluate|deploy|tell|fetch).*": LINE,
    r"storyreason judge .*": JUDGE,
    r"storyreason build .*": "tests/system/test_build.py",
    r"storyreason data withdraw .*": "tests/tasks/test_withdrawing.py",
    r"curl .*": LINE,
    r"storyreason (up|down|data announce)": UP,
    r"prefect .*--type process": WORK_POOL,
    r"python -m flows\.deployments --pool .*": WORK_POOL,
    r"prefect worker start .*": WORK_POOL,
}
"""Which test runs a command, by a pattern of its words."""
SCRIPTS = sorted([*(REPOSITORY / "benchmarks").glob("*.py"), *(REPOSITORY / "docs").glob("*.py")])
NOT_RUN_OF_SCRIPTS = {
    r"python benchmarks/training\.py 7b .*": "needs a GPU",
    r"python benchmarks/.*": "takes minutes; its last figures are in benchmarks/results or the docs",
    r"python docs/(pictures|screenshot)\.py .*": "photographs a running platform; tests/system/test_up.py calls its functions",
    r"storyreason retrain sample --set training.max_steps=60 .*": "takes minutes, and README has the same verb",
}
"""Commands in the docstrings of scripts that no test runs, and why."""


@dataclass(frozen=True)
class Command:
    """A command as it is written, and where. `why_not` is the reason when no test can run it."""

    text: str
    paper: str
    line: int
    why_not: str = ""

    @property
    def words(self) -> list[str]:
        """What a shell makes of it, without the folder of the environment."""
        return [one for word in shlex.split(self.text.replace(".venv/bin/", "")) for one in _files(word)]

    @property
    def run_by(self) -> str:
        """The file of the test that runs it, or `nowhere`. Raises LookupError when there is none."""
        if self.why_not:
            return NOWHERE
        for pattern, where in RUNS.items():
            if re.fullmatch(pattern, " ".join(self.words)):
                return where
        raise LookupError(f"{self.paper}:{self.line}: no test runs `{self.text}`: add it to RUNS, or say why not")

    def __str__(self) -> str:
        return f"{self.paper}:{self.line}: {self.text}"


def commands() -> list[Command]:
    """Every command, each once, where it first occurs."""
    found: dict[str, Command] = {}
    for paper in PAPERS:
        language = ""
        for number, line in enumerate(paper.read_text().splitlines(), 1):
            if fence := re.match(r"\s*```(\w*)", line):
                language = "" if language else fence[1] or "text"
            elif language == "bash" and line.strip():
                text, _, comment = line.strip().partition(" #")
                why_not = comment.strip().removeprefix(NOT_RUN) if NOT_RUN in comment else ""
                found.setdefault(text.strip(), Command(text.strip(), _name(paper), number, why_not))
    for script in SCRIPTS:
        for number, line in enumerate((ast.get_docstring(ast.parse(script.read_text())) or "").splitlines(), 1):
            if re.match(r"(python|storyreason) \S", line):
                text = re.split(r"\s{2,}", line)[0]
                why_not = next((why for one, why in NOT_RUN_OF_SCRIPTS.items() if re.fullmatch(one, text)), "")
                found.setdefault(text, Command(text, _name(script), number, why_not))
    return list(found.values())


def _files(word: str) -> list[str]:
    """The files of the repository that a word with `*` names, else the word."""
    found = sorted(REPOSITORY.glob(word)) if "*" in word else []
    return [str(path.relative_to(REPOSITORY)) for path in found] or [word]


def run_by(where: str) -> list[Command]:
    """The commands that one test file runs."""
    return [command for command in commands() if command.run_by == where]


def on_smoke(command: Command, port: int, place: Path) -> list[str]:
    """A command's words as a test of the pipeline runs it: with the preset that takes a minute, on a port of its own, and
    pages written to `place`."""
    text = " ".join(command.words).replace("sample --set", "smoke --set").replace("--preset sample", "--preset smoke")
    program, *words = text.replace(":8400", f":{port}").replace("storyteller@", "storyteller-smoke@").split()
    if program != "storyreason":
        return [program, *words]
    if words == ["retrain", "sample"]:  # the whole of it is what other tests tell
        words = ["retrain", "smoke", "--until", "register"]
    words = [str(place / word) if word.endswith(".html") else word for word in words]
    if words[0] in ("retrain", "evaluate", "deploy"):
        words += ["--set", "data.rev=HEAD"]
    if words[0] == "deploy":
        words += ["--set", f"serving.port={port}"]
    return [program, *words]


def scripts(paper: Path) -> dict[str, str]:
    """The Python files that a document tells its reader to save, by their names: blocks that begin with `# name.py`."""
    blocks = re.findall(r"```python\n(# (\w+\.py)\n.*?)```", paper.read_text(), re.S)
    return {name: code for code, name in blocks}


def _name(paper: Path) -> str:
    return str(paper.relative_to(REPOSITORY))
