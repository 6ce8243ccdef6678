"""kill -9 of every part of the platform, at random moments of a retraining and of a deployment under load.

    python benchmarks/storm.py --kills 200 --folder runs/storm

A round is one seed: a fresh clone, a retraining of the preset `smoke` (answers of 1,200 tokens, two ranks) that is killed,
and the same command again until it is done; then a deployment while clients ask for stories, treated likewise. Odd seeds run
under `storyreason up`. The seed draws what is killed and when. Afterwards the clone must be as after the undisturbed round
that comes first: one version, one MLflow run for each fingerprint, no process, lock, lease, half file or temporary folder left,
no run that Prefect still calls running, weights and answers equal by hash. `storm.jsonl` in the folder has a line for each
round; rounds that are in it are not repeated. The exit code says whether there was a fault.
"""

import base64
import contextlib
import fcntl
import hashlib
import io
import json
import os
import random
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import httpx
import psutil
import typer

REPOSITORY = Path(__file__).resolve().parents[1]
STORYREASON = str(Path(sys.executable).with_name("storyreason"))
PARTS = {
    "flow": r"bin/storyreason (retrain|deploy)",
    "trainer": r"storyreason\.training",
    "guard": r"guard\.py",
    "engine": r"vllm serve|VLLM::",
    "gateway": r"storyreason\.serving\.gateway|storyreason serve",
    "Prefect": r"prefect server|prefect\.server",
    "MLflow": r"mlflow server|mlflow\.server",
    "deployments": r"flows\.deployments",
    "supervisor": r"supervisor\.supervisord",
    "all": r"",
}
"""What is killed: every process of the clone whose command line matches; of ranks, guards and engines often only one."""
LONGEST = 2400.0
"""Seconds after which a command counts as hanging."""
TRIES = 6
"""How often a command may end with an error, without a kill of its own, before that is a fault: it says "run it again"."""
HALF = re.compile(r"^\..+\.([a-z0-9_]{8}|old)$|\.partial$|\.incomplete$|\.tmp$")
"""Names of files and folders that are renamed or removed once they are whole."""
RESULTS = ("*.safetensors", "predictions*.jsonl", "free*.jsonl", "grounded*.jsonl")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Clone:
    """A fresh clone, and what runs in it."""

    folder: Path
    environment: dict[str, str]
    port: int = field(default_factory=free_port)
    temporary: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="st")))
    """A short path: sockets lie in it, and theirs has 107 characters at most."""

    @classmethod
    def make(cls, folder: Path, environment: dict[str, str]) -> "Clone":
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run(["git", "clone", "-q", str(REPOSITORY), str(folder)], check=True)
        made = cls(folder, {})
        ports = {"GATEWAY": made.port, "PREFECT": free_port(), "MLFLOW": free_port()}
        made.environment = environment | {f"STORYREASON_{name}_PORT": str(port) for name, port in ports.items()}
        made.environment |= {"STORYREASON_RUNS": str(made.runs), "TMPDIR": str(made.temporary)}
        made.environment |= {"STORYREASON_PRESET": "smoke", "OMP_NUM_THREADS": "1"}
        made.environment["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "inductor")  # torch keeps it for later on purpose
        return made

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        with (self.folder / "storm.log").open("ab") as log:
            return subprocess.Popen(
                [STORYREASON, *arguments], cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def run(self, *arguments: str) -> int:
        process = self.start(*arguments)
        try:
            return process.wait(LONGEST)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def processes(self) -> dict[psutil.Process, str]:
        """The processes that came of this clone, and their command lines."""
        found = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                mine = process.environ().get("STORYREASON_RUNS") == str(self.runs)
                # vLLM's engine names itself over its environment
                mine |= Path(process.cwd()).is_relative_to(self.folder)
                if mine and process.status() != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
                    found[process] = " ".join(process.cmdline())
        return found

    def said(self) -> str:
        return (self.folder / "storm.log").read_text(errors="replace")[-1500:]


@dataclass
class Round:
    """One seed: what was killed, and what is wrong afterwards."""

    clone: Clone
    chance: random.Random
    left: int
    parts: Sequence[str]
    pause: float
    kills: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def through(self, kills: int, up: bool, *arguments: str) -> None:
        """Run a command again and again until it is done, and kill so many times meanwhile."""
        failed, until = 0, len(self.kills) + min(kills, self.left)
        while True:
            if up:
                self.clone.run("up")
            process = self.clone.start(*arguments)
            begun, killed = time.monotonic(), False
            moment = begun + self.chance.uniform(0.5, self.pause)
            while process.poll() is None:
                if len(self.kills) < until and time.monotonic() > moment:
                    killed |= self._kill(arguments[0])
                    moment = time.monotonic() + self.chance.uniform(0.5, self.pause)
                if time.monotonic() - begun > LONGEST:
                    self.faults.append(f"{arguments[0]} hangs: {self.clone.said()}")
                    process.kill()
                time.sleep(0.05)
            if process.returncode == 0 and len(self.kills) >= until:
                return
            if process.returncode == 0:  # done before all kills: the rest finds everything complete
                until = len(self.kills)
                return
            failed += not killed
            if failed == TRIES:
                self.faults.append(f"{arguments[0]} failed {failed} times without a kill: {self.clone.said()}")
                return

    def _kill(self, stage: str) -> bool:
        """Kill one of the parts that are running; whether there was one."""
        lines = self.clone.processes()
        running = {
            part: [process for process, line in lines.items() if re.search(PARTS[part], line)] for part in self.parts
        }
        alive = [part for part, found in running.items() if found]
        if not alive:
            return False
        part = self.chance.choice(alive)
        victims = running[part]
        if part in ("trainer", "guard", "engine") and self.chance.random() < 0.6:
            victims = [self.chance.choice(victims)]
        for victim in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
        self.left -= 1
        self.kills.append(f"{stage}: {part} ({len(victims)} of {len(lines)} processes)")
        return True


@contextlib.contextmanager
def load(port: int) -> Iterator[Counter[str]]:
    """Two clients that ask the gateway for stories until the block ends; how often it gave which status."""
    from PIL import Image

    file, ending, seen = io.BytesIO(), threading.Event(), Counter[str]()
    Image.new("RGB", (112, 112), (90, 120, 150)).save(file, "PNG")
    body = {"images": [base64.b64encode(file.getvalue()).decode()], "decoding": "free", "max_tokens": 64}

    def client() -> None:
        while not ending.is_set():
            try:
                answer = httpx.post(f"http://127.0.0.1:{port}/v1/stories", json=body, timeout=300, trust_env=False)
                seen[str(answer.status_code)] += 1
            except httpx.HTTPError as error:
                seen[type(error).__name__] += 1
            ending.wait(0.5)

    clients = [threading.Thread(target=client) for _ in range(2)]
    for one in clients:
        one.start()
    try:
        yield seen
    finally:
        ending.set()
        for one in clients:
            one.join()


def storm(
    clone: Clone, seed: int, kills: int, until: str = "deploy", parts: Sequence[str] = tuple(PARTS), pause: float = 60
) -> dict[str, Any]:
    """One round; `state` is what it left, by which rounds are compared."""
    begun, chance = time.monotonic(), random.Random(seed)
    one, up = Round(clone, chance, kills, parts, pause), until == "deploy" and seed % 2 == 1
    sets = ["generation.max_tokens=1200", "training.processes=2", f"serving.port={clone.port}"]
    chosen = [word for setting in sets for word in ("--set", setting)]
    one.through(kills if until != "deploy" else max(kills - 2, 0), up, "retrain", "smoke", *chosen, "--until", until)
    seen: Counter[str] = Counter()
    if until == "deploy":
        with load(clone.port) as seen:
            one.through(2, up, "deploy", "1", "--preset", "smoke", *chosen, "--set", "serving.max_num_seqs=7")
    clone.run("down")
    if up or "PREFECT_API_URL" not in clone.environment:  # the next start says of each run how it ended
        clone.run("retrain", "smoke", *chosen, "--until", "pull")
    state = left(clone, one.faults)
    return {
        "seed": seed, "up": up, "kills": one.kills, "load": dict(seen), "seconds": round(time.monotonic() - begun),
        "faults": one.faults, "state": state,
    }  # fmt: skip


def left(clone: Clone, faults: list[str]) -> dict[str, Any]:
    """What a round left in MLflow and on the disk. What must not be there at all becomes a fault."""
    deadline = time.monotonic() + 60
    while (still := clone.processes()) and time.monotonic() < deadline:
        time.sleep(0.2)
    faults += [f"still running: {line}" for line in still.values()]
    for path in clone.runs.rglob("*"):
        inside = path.relative_to(clone.runs).parts
        if HALF.search(path.name) and "mlflow" not in inside[:1] and "prefect" not in inside[:1]:
            faults.append(f"half of something: {path.relative_to(clone.runs)}")
        if path.name == ".lock":
            with path.open() as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    faults.append(f"still locked: {path}")
    faults += [f"temporary: {path.name}" for path in clone.temporary.iterdir()]
    for resting in clone.runs.glob("gateway*/resting.json"):
        if json.loads(resting.read_text()):
            faults.append(f"a lease is left: {resting.read_text()}")
    return {"mlflow": _mlflow(clone, faults), "prefect": _prefect(clone, faults), "files": _hashes(clone)}


def _mlflow(clone: Clone, faults: list[str]) -> dict[str, Any]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{clone.runs}/mlflow/mlflow.db")
    versions = client.search_model_versions("name = 'storyteller-smoke'")
    if len(versions) != 1:
        faults.append(f"{len(versions)} versions")
    runs = client.search_runs([one.experiment_id for one in client.search_experiments()])
    steps = Counter(
        f"{name}={value}"
        for run in runs
        for name, value in run.data.tags.items()
        if re.fullmatch("[0-9a-f]{16}", value)
    )
    faults += [f"{count} runs of {step}" for step, count in steps.items() if count > 1]
    faults += [f"run {run.info.run_name} is {run.info.status}" for run in runs if run.info.status != "FINISHED"]
    return {"versions": len(versions), "runs": sorted(steps)}


def _prefect(clone: Clone, faults: list[str]) -> dict[str, int]:
    file = clone.runs / "prefect" / "prefect.db"
    if not file.exists():  # a server elsewhere
        return {}
    with contextlib.closing(sqlite3.connect(file)) as database:
        states = Counter(state for (state,) in database.execute("select state_type from flow_run"))
        slots = database.execute("select name from concurrency_limit_v2 where active_slots > 0").fetchall()
    faults += [f"Prefect calls a run {state}" for state in ("RUNNING", "PENDING", "CANCELLING") if states[state]]
    faults += [f"the slot {name} is taken" for (name,) in slots]
    return dict(states)


def _hashes(clone: Clone) -> dict[str, str]:
    files = {path for pattern in RESULTS for path in clone.runs.rglob(pattern) if "checkpoint-" not in str(path)}
    return {
        str(path.relative_to(clone.runs)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(files)
        if path.relative_to(clone.runs).parts[0] not in ("mlflow", "prefect")
    }


def differences(state: dict[str, Any], undisturbed: dict[str, Any]) -> list[str]:
    """What differs from the undisturbed round: results by hash, versions and runs."""
    found = [] if state["mlflow"] == undisturbed["mlflow"] else [f"MLflow has {state['mlflow']}"]
    files, wanted = state["files"], undisturbed["files"]
    return found + [f"{name} differs" for name in sorted({*files, *wanted}) if files.get(name) != wanted.get(name)]


def main(
    folder: Annotated[Path, typer.Option(help="Clones and storm.jsonl; a later call goes on from there.")],
    kills: Annotated[int, typer.Option(min=0, help="Kills in all.")] = 200,
    each: Annotated[int, typer.Option(min=1, help="Kills in a round.")] = 8,
    first: Annotated[
        int, typer.Option(min=1, help="The first round's seed: another one beside a storm that runs.")
    ] = 1,
) -> None:
    """Rounds until there were so many kills, the undisturbed one first."""
    folder.mkdir(parents=True, exist_ok=True)
    report = folder / "storm.jsonl"
    done = [json.loads(line) for line in report.read_text().splitlines()] if report.exists() else []
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "MLFLOW_"))}
    while (total := sum(len(one["kills"]) for one in done)) < kills or not done:
        seed = first + len(done) - 1 if done else 0
        clone = Clone.make(folder.absolute() / "clone", environment)
        one = storm(clone, seed, 0 if seed == 0 else min(each, kills - total))
        if seed:
            one["faults"] += differences(one["state"], done[0]["state"])
        done.append(one)
        with report.open("a") as file:
            file.write(json.dumps(one) + "\n")
        if one["faults"]:
            shutil.copytree(clone.folder, folder / f"seed-{seed}", dirs_exist_ok=True, symlinks=True)
        typer.echo(f"seed {seed}: {len(one['kills'])} kills, {one['seconds']} s, faults: {one['faults'] or 'none'}")
    faults = sum(len(one["faults"]) for one in done)
    what = Counter(kill.partition(": ")[2].partition(" (")[0] for one in done for kill in one["kills"])
    typer.echo(f"{len(done) - 1} rounds, {total} kills ({dict(what)}), {faults} faults")
    if faults:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
