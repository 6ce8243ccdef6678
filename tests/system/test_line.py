"""The whole pipeline, from a fresh clone to a served storyteller, killed at every step on the way.

The tests depend on their order: each continues where the previous one has stopped.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from storyreason import chat, dataset
from storyreason.generation import GenerationConfig
from storyreason.generation.openai import Endpoint
from storyreason.pictures import open_frames
from tests.docs import commands
from tests.docs.commands import Command
from tests.system.conftest import REPOSITORY, STORYREASON, Project, wait_for

pytestmark = pytest.mark.server
MODEL = "storyteller-smoke"
PUBLISHED_USAGE = Path(__file__).with_name("published_usage.py")


@pytest.fixture
def mlflow(project: Project) -> MlflowClient:
    return MlflowClient(f"sqlite:///{project.runs}/mlflow/mlflow.db")


def training_runs(mlflow: MlflowClient) -> list[Run]:
    found = mlflow.search_runs(["1"], order_by=["attributes.start_time"])
    return [run for run in found if run.data.tags.get("storyreason.role") == "tuned"]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def trained(project: Project) -> list[Path]:
    return sorted(project.runs.glob("train/*/manifest.json"))


def compared(run: Run, role: str) -> list[dict[str, Any]]:
    """The rows of the table that compares a run's scores with those of the base or the champion."""
    path = Path(run.info.artifact_uri.removeprefix("file://")) / f"free/challenger_against_{role}.json"
    table = json.loads(path.read_text())
    return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]


def test_a_flow_killed_in_training_leaves_no_training_process(project: Project) -> None:
    checkpoint = "train/*/checkpoint-2"

    project.kill_when(lambda: list(project.runs.glob(checkpoint)), "the first checkpoint", *project.retrain())

    wait_for(lambda: not project.processes("storyreason.training"), "the training process to end", 20)
    assert not trained(project)


def test_it_resumes_from_its_checkpoint_and_killed_in_evaluation_leaves_no_vllm(project: Project) -> None:
    engine = "evaluate/*/vllm.log"

    project.kill_when(
        lambda: any(log.stat().st_size for log in project.runs.glob(engine)), "vLLM's first words", *project.retrain()
    )

    wait_for(lambda: not project.processes("vllm"), "vLLM to end", 60)
    (work,) = (manifest.parent for manifest in trained(project))
    starts = [line for line in lines(work / "progress.jsonl") if line["event"] == "start"]
    assert starts[0]["step"] == 0
    assert starts[-1]["step"] >= 2
    steps = [line["step"] for line in lines(work / "progress.jsonl") if line["event"] == "step"]
    assert steps == list(range(1, 9))


def test_killed_during_the_deployment_it_still_makes_and_serves_one_version(
    project: Project, mlflow: MlflowClient
) -> None:
    project.kill_when(
        lambda: list(project.runs.glob("gateway-smoke/vllm-*.log")), "the deployment to start", *project.retrain()
    )

    printed = project.run(*project.retrain())

    (run,) = training_runs(mlflow)
    assert run.info.status == "FINISHED"
    assert [point.step for point in mlflow.get_metric_history(run.info.run_id, "train/loss")] == list(range(1, 9))
    assert len(mlflow.search_model_versions(f"name = '{MODEL}'")) == 1
    assert not list(project.runs.glob("train/*/checkpoint-*"))  # nothing resumes from them any more
    assert str(mlflow.get_model_version_by_alias(MODEL, "champion").version) == "1"
    last = printed.strip().splitlines()[-1]
    assert project.url in last and "make down" in last
    assert "viewStateShareKey=scores" in printed and "#/compare-runs?runs=" in printed
    (page,) = (line.removeprefix("story page: ") for line in printed.splitlines() if line.startswith("story page: "))
    assert "<html" in Path(page).read_text()
    assert f"stories/{MODEL}/version-1.html" in page
    served = httpx.get(f"{project.url}/healthz", timeout=60, trust_env=False).json()
    assert served["registered"] == f"models:/{MODEL}/1"


def test_scores_and_lineage_are_where_people_compare(project: Project, mlflow: MlflowClient) -> None:
    (run,) = training_runs(mlflow)
    (base,) = (r for r in mlflow.search_runs(["1"]) if r.data.tags.get("storyreason.role") == "base")

    names = {"free/strict/validity/valid", "free/strict/grounding/f1", "free/paper/F1", "free/paper/METEOR"}
    assert names <= run.data.metrics.keys() & base.data.metrics.keys()
    assert len(run.data.metrics) <= 60 and len(run.data.params) <= 40
    table = json.loads((Path(run.info.artifact_uri.removeprefix("file://")) / "scores.json").read_text())
    assert {"score", "value", "low", "high"} <= set(table["columns"])
    assert names <= {row[table["columns"].index("score")] for row in table["data"]}
    said = str(mlflow.get_model_version(MODEL, "1").description)
    assert re.match(
        r"box F1 [\d.]+ \([\d.]+ to [\d.]+\), IDF1 [\d.]+, valid answers [\d.]+, promoted \d+ \w+ \d{4}\n", said
    )
    assert run.data.tags["mlflow.note.content"].startswith("version 1 promoted ")
    assert run.data.params["training.learning_rate"] == "0.001"
    beyond_training = {key: value for key, value in run.data.params.items() if not key.startswith("training.")}
    assert base.data.params == beyond_training
    tags = mlflow.get_model_version(MODEL, "1").tags
    for name in ("data_md5", "git_commit", "train", "register", "prefect_run", "gate"):
        assert tags[f"storyreason.{name}"], name
    artifacts = {item.path for item in mlflow.list_artifacts(run.info.run_id, "free")}
    assert {"free/stories.json", "free/stories.html", "free/challenger_against_base.json"} <= artifacts
    for kind in ("free/charts", "free/compared"):
        charts = {Path(item.path).name for item in mlflow.list_artifacts(run.info.run_id, kind)}
        assert charts == {"grounding_by_kind.png", "pronouns_grounded.png", "persistence.png", "rules.png"}, kind
    (row,) = (row for row in compared(run, "base") if row["name"] == "strict/grounding/f1")
    assert row["low"] <= row["gain"] <= row["high"]
    assert row["challenger"] == pytest.approx(run.data.metrics["free/strict/grounding/f1"])
    assert "Promote" in (Path(run.info.artifact_uri.removeprefix("file://")) / "gate/report.md").read_text()


def test_without_changes_nothing_is_repeated(project: Project, mlflow: MlflowClient) -> None:
    printed = project.run(*project.retrain())

    for task in ("pull", "train", "register", "evaluate-base", "evaluate-challenger"):
        assert any(task in line and "Cached" in line for line in printed.splitlines()), (task, printed)
    assert "is the champion already" in printed
    assert "nothing to deploy" in printed
    assert len(mlflow.search_model_versions(f"name = '{MODEL}'")) == 1


IMPROVED = ["--set", "improve.max_steps=4", "--set", "improve.negatives=[moved-boxes]"]


def test_an_improvement_killed_on_its_way_goes_on_and_both_versions_are_compared(
    project: Project, mlflow: MlflowClient
) -> None:
    command = project.retrain("--set", "improve.method=dpo", *IMPROVED, "--until", "gate")
    project.kill_when(lambda: list(project.runs.glob("improve/*/checkpoint-2")), "its first checkpoint", *command)
    wait_for(lambda: not project.processes("storyreason.training"), "the training process to end", 20)
    project.run(*command)

    (work,) = (manifest.parent for manifest in project.runs.glob("improve/*/manifest.json"))
    assert [line["step"] >= 2 for line in lines(work / "progress.jsonl") if line["event"] == "start"] == [False, True]
    supervised, improved = (mlflow.get_run(str(mlflow.get_model_version(MODEL, number).run_id)) for number in "12")
    assert improved.data.tags["storyreason.trained_from"] == supervised.info.run_id
    assert len(mlflow.get_metric_history(improved.info.run_id, "train/margin")) == 4
    (row,) = (row for row in compared(improved, "champion") if row["name"] == "strict/grounding/f1")
    assert row["champion"] == pytest.approx(supervised.data.metrics["free/strict/grounding/f1"])
    assert row["challenger"] == pytest.approx(improved.data.metrics["free/strict/grounding/f1"])
    report = (Path(improved.info.artifact_uri.removeprefix("file://")) / "gate/report.md").read_text()
    assert "box recall, free" in report and "words per story, free" in report


def test_the_published_usage_runs_on_the_registered_folder(project: Project, mlflow: MlflowClient) -> None:
    folder = str(project.runs / mlflow.get_model_version(MODEL, "1").tags["storyreason.folder"])
    done = subprocess.run([sys.executable, str(PUBLISHED_USAGE), folder], capture_output=True, text=True)
    assert "told:" in done.stdout, done.stderr


def test_the_openai_client_streams_a_story_of_five_images(project: Project) -> None:
    from openai import OpenAI

    from storyreason.pictures import data_url

    images = dataset.load(project.folder / "data", "test")[0].images[:5]
    content: list[Any] = [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in images]
    with OpenAI(base_url=f"{project.url}/v1", api_key="none") as client:
        stream = client.chat.completions.create(
            model="storyteller",
            messages=[{"role": "user", "content": [*content, {"type": "text", "text": "Tell a story."}]}],
            max_tokens=32,
            stream=True,
        )
        pieces = [chunk.choices[0].delta.content for chunk in stream if chunk.choices]
    assert len([piece for piece in pieces if piece]) > 5


def test_local_changes_are_refused_and_a_new_data_version_runs_from_the_data_on(project: Project) -> None:
    folder = project.folder / "data"
    examples = list(dataset.load(folder, "test"))
    first = examples[0]
    examples[0] = dataset.Example(
        first.story_id, first.images, first.chain_of_thought, first.story + "\n", first.frame_count
    )
    for shard in folder.glob("test-*"):
        shard.unlink()
    dataset.write(examples, folder, "test")

    printed = project.run(*project.retrain("--until", "train"), code=2)
    assert "dvc add data" in printed and "Traceback" not in printed

    subprocess.run([sys.executable, "-m", "dvc", "-q", "add", "data"], cwd=project.folder, check=True)
    printed = project.run(*project.retrain("--until", "train"))
    assert not any("pull-" in line and "data.dvc" in line and "Cached" in line for line in printed.splitlines())
    assert len(trained(project)) == 2


@pytest.mark.parametrize("command", commands.run_by(commands.LINE), ids=str)
def test_a_command_of_the_docs_runs(project: Project, tmp_path: Path, command: Command) -> None:
    program, *words = commands.on_smoke(command, project.port, tmp_path)
    words += IMPROVED if "improve.method=dpo" in words else []
    arguments = [STORYREASON if program == "storyreason" else program, *words]
    environment = {**project.environment, "STORYREASON_GATEWAY_PORT": str(project.port)}
    done = subprocess.run(arguments, cwd=project.folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_readmes_other_learning_rate_trained_again_on_the_same_data(mlflow: MlflowClient) -> None:
    one = training_runs(mlflow)[0]
    (two,) = (run for run in training_runs(mlflow) if run.data.params["training.learning_rate"] == "0.0005")
    assert one.data.params.keys() == two.data.params.keys()
    assert one.data.metrics.keys() & two.data.metrics.keys() >= {"train/loss", "train/tokens_per_s"}
    differing = {key for key in one.data.params if one.data.params[key] != two.data.params[key]}
    assert differing == {"training.learning_rate", "data.rev", "overrides"}


SHARDED = [
    *("--set", "training.accelerate=fsdp2-cpu2", "--set", "training.max_steps=4", "--set", "data.rev=HEAD"),
    *("--set", "training.mode=lora", "--set", "training.learning_rate=5e-3"),
]


def test_two_fsdp2_processes_train_what_is_then_served(project: Project, mlflow: MlflowClient) -> None:
    paths = (str(REPOSITORY / "tests" / "fsdp_cpu"), project.environment.get("PYTHONPATH"))
    sharded = Project(
        project.folder,
        {**project.environment, "PYTHONPATH": os.pathsep.join(path for path in paths if path)},
        project.port,
    )

    printed = sharded.run(*project.retrain(*SHARDED))

    run = training_runs(mlflow)[-1]
    assert run.data.tags["storyreason.distributed_type"] == "FSDP"
    assert run.data.tags["storyreason.processes"] == "2"
    champion = mlflow.get_model_version_by_alias(MODEL, "champion")
    assert champion.run_id == run.info.run_id
    assert "served already" not in printed
    assert project.url in printed.strip().splitlines()[-1]
    (row,) = (row for row in compared(run, "champion") if row["name"] == "strict/grounding/f1")
    assert row["low"] <= row["gain"] <= row["high"]
    assert row["challenger"] == pytest.approx(run.data.metrics["free/strict/grounding/f1"])
    incumbent = mlflow.get_run(str(mlflow.get_model_version(MODEL, "1").run_id))
    assert row["champion"] == pytest.approx(incumbent.data.metrics["free/strict/grounding/f1"])


def test_transformers_peft_and_vllm_tell_the_same_of_the_adapter_that_was_trained(
    project: Project, mlflow: MlflowClient
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText, AutoProcessor

    # Given the model folder that is served, and what training left of it: an adapter of the base
    folder = str(project.runs / mlflow.get_model_version_by_alias(MODEL, "champion").tags["storyreason.folder"])
    (adapter,) = (path.parent for path in project.runs.glob("train/*/result/adapter_config.json"))
    processor, config = AutoProcessor.from_pretrained(folder), GenerationConfig(max_tokens=96)
    stories = [example.images[:5] for example in dataset.load(project.folder / "data", "test")[:4]]

    def told_by(net: Any) -> list[str]:
        told = []
        for images in stories:
            turns = chat.messages(len(images), config.request, config.images_first)
            prompt = processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            inputs = processor(text=[prompt], images=open_frames(images, "a story"), return_tensors="pt")
            written = net.eval().generate(**inputs, max_new_tokens=config.max_tokens, do_sample=False)
            told.append(processor.decode(written[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
        return told

    base = AutoModelForImageTextToText.from_pretrained(project.folder / "tiny-base", dtype="float32")
    plain = told_by(base)
    # When each tells four stories of five pictures, greedily, in float32, as long as it likes
    served = [Endpoint(project.url, "storyteller").session(images, config).tell() for images in stories]
    merged = told_by(AutoModelForImageTextToText.from_pretrained(folder, dtype="float32"))
    apart = told_by(PeftModel.from_pretrained(base, str(adapter)))
    # Then all of them have learnt, and every text is the same
    assert sum(told.tokens for told in served) >= 64
    assert [told.text for told in served] == merged == apart != plain


def test_one_command_rolls_back_to_the_previous_version(project: Project, mlflow: MlflowClient) -> None:
    before = mlflow.get_model_version_by_alias(MODEL, "previous").version

    shard = next((project.folder / "data").glob("train-*"))
    shard.unlink()  # nobody who has to go back quickly wants to hear of that

    printed = project.run("deploy", "previous", "--preset", "smoke", "--set", f"serving.port={project.port}")

    assert "deploying without telling a test story first, because there are no data: " in printed
    assert mlflow.get_model_version_by_alias(MODEL, "champion").version == before


def test_no_retraining_promotes_a_version_that_was_taken_down_by_hand(project: Project, mlflow: MlflowClient) -> None:
    champion = mlflow.get_model_version_by_alias(MODEL, "champion").version
    down = mlflow.get_model_version_by_alias(MODEL, "previous").version

    printed = project.run(*project.retrain(*SHARDED))

    assert f"version {down} was taken down by hand for version {champion}" in printed
    assert mlflow.get_model_version_by_alias(MODEL, "champion").version == champion
