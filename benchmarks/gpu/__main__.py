"""The performance of this project on one GPU, part by part, within a budget of seconds. From the root of a checkout:

python -m benchmarks.gpu                                     all parts, 540 s
python -m benchmarks.gpu --budget 200 --parts modes teaching
python -m benchmarks.gpu --dry                               every part on a CPU, with tiny sizes

Each part runs in its own process: if it fails, hangs or runs out of memory, the others still run. Every figure is a line of
JSON on stdout; all of them go to `benchmarks/results/gpu.json`, and the parts' stderr goes to `--log`.

It needs the packages of deploy/requirements-gpu.txt. If the machine with the GPU has torch but no network, download what it
lacks first and copy the folder there; `--wheels` installs it into a temporary folder, for this run only:

python -m pip download --no-deps --only-binary=:all: -d wheels transformers==5.19.0 peft==0.21.2 liger-kernel==0.8.5
python -m benchmarks.gpu --wheels wheels

(with `--python-version` and `--platform` of that machine, and pydantic with its dependencies where it lacks them).
Read `attention` first (is varlen or flash faster than cuDNN on stories of various lengths?), then `variants`.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from storyreason.training.launch import ON_GPUS

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "gpu.json"
TESTED = ("packing", "features", "measure", "setup", "machine", "plan", "examples", "checkpoints")
SPARE = 12
"""Seconds that a part needs at least."""


@dataclass(frozen=True)
class Part:
    """`seconds` is the time limit; `what` is a module of this package with its function, or a recipe."""

    name: str
    seconds: int
    what: str
    env: tuple[tuple[str, str], ...] = ()


PARTS = (
    Part("hardware", 40, "hardware:measure"),
    Part("parity", 60, "parity:measure"),
    Part("pipeline", 90, "pipeline:one_gpu"),
    Part("attention", 50, "attention:measure"),
    Part("attention, cudnn not rebuilt", 30, "attention:cudnn", tuple(ON_GPUS.items())),
    Part("recipe b", 110, "b", tuple(ON_GPUS.items())),
    Part("variants", 150, "variants:measure", tuple(ON_GPUS.items())),
    Part("variants, cudnn rebuilt", 60, "variants:rebuilt"),
    Part("recipe a'", 80, "a'"),
    Part("fsdp", 100, "pipeline:fsdp"),
    Part("modes", 80, "modes:measure", tuple(ON_GPUS.items())),
    Part("recipe a", 100, "a"),
    Part("teaching", 60, "teaching:measure"),
)
"""In order of value: when the budget ends, the rest is left out. The trainer's tests run at the same time, on the GPU too."""


class Run:
    """One run of the benchmark: its lines, its budget, its folders."""

    def __init__(self, chosen: argparse.Namespace, work: Path, log: IO[str]) -> None:
        self.dry: bool = chosen.dry
        self.slow: float = chosen.slow or (20 if chosen.dry else 1)
        self.budget: float = chosen.budget or (3600 if chosen.dry else 540)
        self.deadline = time.time() + self.budget
        self.work = work
        self.log = log
        self.lines: list[dict[str, Any]] = []
        there = filter(None, [os.environ.get("PYTHONPATH")])
        self.env = {
            **os.environ,
            "GPU_BENCHMARK_DEADLINE": str(self.deadline),
            "GPU_BENCHMARK_DRY": "1" if chosen.dry else "",
            "GPU_BENCHMARK_WORK": str(work),
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": os.pathsep.join([*self._wheels(chosen.wheels), str(ROOT), str(ROOT / "benchmarks"), *there]),
            "PYTHONUNBUFFERED": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "TRANSFORMERS_VERBOSITY": "error",
        }
        if not chosen.dry:
            self.env.setdefault("PYTORCH_ALLOC_CONF", ON_GPUS["PYTORCH_ALLOC_CONF"])

    def _wheels(self, folder: Path | None) -> list[str]:
        """Install the wheels of a folder for this run; gives where they are."""
        if folder is None:
            return []
        site = self.work / "site"
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile"]
        subprocess.run([*pip, "--target", str(site), *map(str, sorted(folder.glob("*.whl")))], check=True)
        return [str(site)]

    def tell(self, **line: Any) -> None:
        self.lines.append(line)
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()

    def left(self) -> float:
        return self.deadline - time.time()

    def part(self, part: Part) -> None:
        """Run one part within its time limit and the budget, and record its lines."""
        limit = min(part.seconds * self.slow, self.left() - 3)
        if limit < SPARE:
            self.tell(part=part.name, failed="no time left")
            return
        began = time.time()
        code, wrote = self._execute(self._command(part), {**self.env, **dict(part.env)}, limit, part.name)
        if code:
            self.tell(part=part.name, failed="out of time" if code == -9 else code, said=wrote[-4:])
        self.tell(part=part.name, seconds=round(time.time() - began), left=round(self.left()))

    def _command(self, part: Part) -> list[str]:
        if ":" in part.what:
            return [sys.executable, "-m", "benchmarks.gpu", "--run", part.what]
        recipe = "a'" if self.dry and part.what == "a" else part.what  # on a CPU a and a' are the same
        script = [sys.executable, str(ROOT / "benchmarks" / "training.py"), "tiny" if self.dry else "7b"]
        return [*script, "--mode", "lora", "--steps", "1" if self.dry or part.what == "a" else "2", "--recipe", recipe]

    def _execute(self, command: list[str], env: dict[str, str], limit: float, name: str) -> tuple[int, list[str]]:
        """The exit code (-9 after a timeout) and the lines of stderr; lines of stdout are recorded as they come."""
        with tempfile.TemporaryFile("w+") as errors:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, env=env, cwd=ROOT, start_new_session=True
            )
            timer = threading.Timer(limit, os.killpg, (process.pid, signal.SIGKILL))
            timer.start()
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith('{"'):
                    self.tell(part=name, **json.loads(line))
            code = process.wait()
            timer.cancel()
            errors.seek(0)
            wrote = errors.read()
        self.log.write(f"=== {name}\n{wrote}\n")
        return code, [line[:300] for line in wrote.splitlines() if line.strip()]

    def tests(self) -> "subprocess.Popen[str]":
        """The trainer's tests, which also run where there is a GPU."""
        files = [f"tests/storyreason/training/test_{name}.py" for name in TESTED]
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not server", *files]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self.env)

    def tests_end(self, process: "subprocess.Popen[str]") -> None:
        try:
            wrote, _ = process.communicate(timeout=max(1.0, self.left()))
        except subprocess.TimeoutExpired:
            process.kill()
            wrote, _ = process.communicate()
        self.log.write(f"=== tests\n{wrote}\n")
        self.tell(part="tests", code=process.returncode, said=wrote.strip().splitlines()[-1:])


def options() -> argparse.Namespace:
    names = ["tests", *(part.name for part in PARTS)]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, help="seconds for everything (default: 540, and 3600 for a dry run)")
    parser.add_argument("--parts", nargs="*", choices=names, default=names, help="these parts alone (default: all)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the figures go, as JSON")
    parser.add_argument("--log", type=Path, help="where what the parts wrote to stderr goes (default: beside results)")
    parser.add_argument("--wheels", type=Path, help="a folder of wheels to install for this run")
    parser.add_argument("--dry", action="store_true", help="run on a CPU with tiny sizes; results are not written")
    parser.add_argument("--slow", type=float, help="multiply the time that each part may take")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    """0 if every part succeeded."""
    chosen = options()
    if chosen.run:
        module, _, function = chosen.run.partition(":")
        getattr(import_module(f"benchmarks.gpu.{module}"), function)()
        return 0
    log_file = chosen.log or (Path(os.devnull) if chosen.dry else chosen.results.with_suffix(".log"))
    began = time.time()
    with tempfile.TemporaryDirectory() as work, log_file.open("w") as log:
        run = Run(chosen, Path(work), log)
        beside = run.tests() if "tests" in chosen.parts else None
        for part in PARTS:
            if part.name in chosen.parts:
                run.part(part)
        if beside:
            run.tests_end(beside)
        run.tell(part="all", seconds=round(time.time() - began))
    if not chosen.dry:
        about = {"budget": run.budget, "parts": chosen.parts, "lines": run.lines}
        chosen.results.write_text(json.dumps(about, indent=1) + "\n")
    return int(any("failed" in line or line.get("code") or line.get("ok") is False for line in run.lines))


if __name__ == "__main__":
    sys.exit(main())
