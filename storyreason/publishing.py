"""Publishing on the Hub: a model folder with a card of its scores, and a data set with its card."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from storyreason import adapters, dataset
from storyreason.dataset.changing import CARD, WITHOUT_LICENCE
from storyreason.errors import DataError, ModelError, ScoringError
from storyreason.model import CONTENT
from storyreason.scoring import Scorecard
from storyreason.scoring.catalogue import MAIN, SCORES

HEAD = """---
library_name: transformers
pipeline_tag: image-text-to-text
tags: [visual-storytelling, grounding, chain-of-thought]
---
"""
USAGE = """
## Use

```python
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("{name}", dtype="auto")
processor = AutoProcessor.from_pretrained("{name}")
```

or `vllm serve {name} --generation-config vllm`. `storyreason tell FRAMES --model {name}` writes the prompt, reads the answer
and draws the boxes.
"""


@dataclass(frozen=True)
class Publication:
    """What is uploaded to the Hub: files of the model folder, and the card as README."""

    name: str
    folder: Path
    files: tuple[Path, ...]
    card: str

    def summary(self) -> str:
        """A line for each file with its size, and the total."""
        sizes = [(path.name, path.stat().st_size) for path in self.files] + [("README.md", len(self.card.encode()))]
        lines = [f"{size / 1e6:12,.1f} MB  {name}" for name, size in sizes]
        return "\n".join([*lines, f"{sum(size for _, size in sizes) / 1e6:12,.1f} MB  in total, to {self.name}"])


def prepare(folder: Path, name: str, scorecards: Mapping[str, Path]) -> Publication:
    """What would be uploaded to the repository `name` (`user/model`). `scorecards` are files of evaluations, by decoding.

    Raises ModelError if the folder is not a model folder, the name is malformed, or a scorecard cannot be read.
    """
    if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
        raise ModelError(
            f"{folder} is not a model folder (config.json and *.safetensors): give the folder of a registered version, or "
            "create one from an adapter with `storyreason merge`."
        )
    if (adapter := adapters.of(folder)) is not None:
        raise ModelError(
            f"{folder} is an adapter over {adapter.base}: make a model of both with `storyreason merge {folder} --base "
            f"{adapter.base} --out FOLDER`, and publish that."
        )
    if not _is_repository(name):
        raise ModelError(f"--to {name!r} is not a repository of the Hub: expected user/model.")
    files = sorted(path for path in folder.iterdir() if path.suffix in CONTENT and not path.name.startswith("."))
    readme = folder / "README.md"
    about = readme.read_text() if readme.is_file() else f"# {name.partition('/')[2]}\n"
    return Publication(
        name, folder, tuple(files), HEAD + "\n" + about.rstrip() + "\n" + _scores(scorecards) + USAGE.format(name=name)
    )


def _is_repository(name: str) -> bool:
    return name.count("/") == 1 and all(name.split("/"))


def _scores(scorecards: Mapping[str, Path]) -> str:
    """A table of the scores of each decoding with their 95 % intervals."""
    if not scorecards:
        return ""
    cards: dict[str, Scorecard] = {}
    for decoding, path in scorecards.items():
        try:
            cards[decoding] = Scorecard.from_json(path.read_text())
        except (OSError, ScoringError) as error:
            raise ModelError(f"--scores {path}: {error}") from error
    values = {decoding: (card.metrics(), card.intervals()) for decoding, card in cards.items()}
    lines = ["", "## Scores", "", "| | " + " | ".join(cards) + " |", "|---|" + "---:|" * len(cards)]
    for score in _in_order({score for metrics, _ in values.values() for score in metrics}):
        cells = (_cell(score, *values[decoding]) for decoding in cards)
        lines.append(f"| `{score}` | " + " | ".join(cells) + " |")
    stories = ", ".join(f"{len(card.story_ids)} ({decoding})" for decoding, card in cards.items())
    return "\n".join([*lines, "", f"Stories of the test split: {stories}. In brackets: 95 % bootstrap intervals.", ""])


def _in_order(scores: set[str]) -> Sequence[str]:
    """The main scores first, the others sorted by name."""
    main = [score.name for score in MAIN if score.name in scores]
    return main + sorted(scores.difference(main))


def _cell(score: str, metrics: Mapping[str, float], intervals: Mapping[str, tuple[float, float]]) -> str:
    if score not in metrics:
        return ""
    low, high = intervals[score]
    text = SCORES[score].text
    return f"{text(metrics[score])} ({text(low)} to {text(high)})"


def publish(made: Publication, private: bool = False) -> str:
    """Upload it and return the repository's URL. The token comes from `hf auth login` or `HF_TOKEN`.

    Raises ModelError with the reason that the Hub gave.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    try:
        address = api.create_repo(made.name, private=private, exist_ok=True)
        operations = [CommitOperationAdd(path.name, str(path)) for path in made.files]
        operations.append(CommitOperationAdd("README.md", made.card.encode()))
        api.create_commit(made.name, operations, commit_message="storyreason publish")
    except Exception as error:  # the Hub's client and its HTTP library raise many types
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"{made.name} could not be published: {reason}. Log in with `hf auth login`, or preview the upload with --dry-run."
        ) from error
    return str(address)


def prepare_data(folder: Path, name: str, licence: str | None = None) -> Publication:
    """What would be published of a data set in the repository `name` (`user/stories`): its shards, and its card.

    A data set without a card gets one from `check`. `licence` replaces the card's. Raises DataError if the folder has no
    shards, the name is malformed, or there is no licence.
    """
    from huggingface_hub import DatasetCard

    files = [file for split in dataset.SPLITS for file in dataset.shards(folder, split)]
    if not _is_repository(name):
        raise DataError(f"--to {name!r} is not a repository of the Hub: expected user/stories.")
    written = folder / CARD
    card = DatasetCard(written.read_text() if written.is_file() else "---\n---\n")
    licence = licence or card.data.get("license")
    if not licence:
        raise DataError(f"{folder} has no licence, so nobody may use it: name one with --licence, such as cc-by-4.0.")
    if not written.is_file():
        card.text = dataset.check(folder).markdown()
    card.data["license"] = licence
    card.data["configs"] = None  # where the files lie in this folder; `push_to_hub` says where they lie there
    card.text = card.text.replace(WITHOUT_LICENCE, f"Licence: {licence}.")
    return Publication(name, folder, tuple(files), str(card))


def publish_data(made: Publication, private: bool = False) -> str:
    """Publish it by `push_to_hub` of the `datasets` library, shard after shard, and return the repository's URL.

    What the repository had in its `data/` is replaced. The token comes from `hf auth login` or `HF_TOKEN`. Raises DataError
    with the reason that the Hub gave.
    """
    from datasets import IterableDatasetDict, load_dataset
    from huggingface_hub import HfApi

    files = {split: [str(file) for file in made.files if file.name.startswith(split)] for split in dataset.SPLITS}
    api = HfApi()
    try:
        address = api.create_repo(made.name, repo_type="dataset", private=private, exist_ok=True)
        api.upload_file(
            path_or_fileobj=made.card.encode(), path_in_repo=CARD, repo_id=made.name, repo_type="dataset",
            commit_message="storyreason data publish: the card",
        )  # fmt: skip
        rows: IterableDatasetDict = load_dataset("parquet", data_files=files, streaming=True)
        rows.push_to_hub(made.name, commit_message="storyreason data publish")
    except Exception as error:  # as above
        reason = " ".join(str(error).split())[:300]
        raise DataError(
            f"{made.name} could not be published: {reason}. Log in with `hf auth login`, or preview the upload with --dry-run."
        ) from error
    return str(address)
