"""The data and the base model of a run: pulled and checked as a step; and changes of the data, which are announced."""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from prefect import get_run_logger

from storyreason import chat, dataset, model, runs, sample
from storyreason.config import BaseModelConfig, DataConfig, RunConfig
from storyreason.dataset.checking import NAMED
from storyreason.errors import DataError, ModelError
from tasks import compat, releasing, remotes, versioning
from tasks.faults import one_line
from tasks.results import Fitted, Pulled
from tasks.steps import Work, step
from tasks.versioning import DataVersion

VERSION = 4  # raise it when this step makes something else of the same data
FIT_VERSION = 1
NEW_VERSION = "storyreason.data.version"
"""The event that announces a new data version; its resource is `storyreason.data.<DVC file>`."""
RESOURCE = "storyreason.data"
Change = Callable[[Path, Path, Callable[[Path, Path], None]], dataset.Change]
"""`dataset.append` or `dataset.adopt`: the data's folder, the source, and what puts the new folder in its place."""
NOTIFIED = ", Prefect is notified"


@dataclass(frozen=True)
class Base:
    """The base model of a run: its folder or its name on the Hub, and what identifies its content."""

    folder: str
    identity: str
    revision: str | None = None
    """The branch, tag or commit on the Hub, if the run names one."""


def identify(config: DataConfig) -> DataVersion:
    """The data version of a run, from its DVC file alone. Raises DataError when pulling would overwrite local changes."""
    return versioning.identify(config.target, config.rev)


def fingerprint(version: DataVersion, check: bool = True) -> str:
    """What determines the pulled files: their content and their folder, and whether they are examples to check."""
    unchecked = {} if check else {"checked": False}
    return runs.fingerprint(step="pull", version=VERSION, md5=version.md5, folder=version.folder, **unchecked)


@contextmanager
def _alone(_: Work, version: DataVersion, check: bool = True) -> Iterator[None]:
    """The exclusive right to fetch content with this md5. A second flow logs that it waits, for as long as the first takes."""

    def held() -> None:
        get_run_logger().info("waiting for another flow that pulls %s (md5 %s)", version.target, version.md5[:8])

    with runs.lock(runs.root() / "pull" / version.md5, math.inf, held):
        yield


@step(fingerprint, lock=_alone, retries=2, delay=2, run_name="pull-{version.target}")
def pull(work: Work, version: DataVersion, check: bool = True) -> Pulled:
    """Fetch one version and verify every file's hash; if it is data, check every example and make the data card."""
    logger = get_run_logger()
    logger.info("pulling %s (md5 %s) from %s", version.target, version.md5[:8], version.remote)
    versioning.fetch(version)
    place, card, faulty = versioning.keep(version), "", {}
    if check:
        report = dataset.check(place)
        card = report.markdown()
        faulty = {one.story_id: str(one) for one in report.bad if one.split == "test"}
        logger.info("%s", report.summary())
    return Pulled(files=(str(place),), md5=version.md5, rev=version.rev, card=card, faulty_test_stories=faulty)


def pull_all(config: RunConfig) -> tuple[Pulled, Base]:
    """The data of a run and its base model, which can take them.

    Everything is identified before anything is fetched. Raises DataError when no test story can be used, or too few stories
    fit the base, and ModelError when there is no such base model.
    """
    version = identify(config.data)
    under_dvc = _identify_base(config.base.name)
    if under_dvc is None:
        _refuse_missing(config.base.name)
    data = pull(version)
    _check_source(config, data)
    base = _base(config.base, None if under_dvc is None else pull(under_dvc, check=False))
    data = _fitting(data, fit(config, data, base))
    stories_to_tell(config.data, data)
    return data, base


def _fit_named_by(config: RunConfig, data: Pulled, base: Base) -> str:
    return runs.fingerprint(
        step="fit", version=FIT_VERSION, data=data.md5, base=base.identity, asked=config.generation.request
    )


@step(_fit_named_by)
def fit(work: Work, config: RunConfig, data: Pulled, base: Base) -> Fitted:
    """Compare the data with the base model: sizes of pictures, and tokens that it treats as special in the texts."""
    encoder = chat.Encoder(model.load_processor(base.folder, config.base.revision))
    chat.refuse_special(config.generation.request, encoder.tokenizer)
    found = dataset.fit(data.folder, encoder)
    faulty = {one.story_id: str(one) for one in found.bad if one.split == "test"}
    return Fitted(files=(), faulty_test_stories=faulty, sentences=found.sentences())


def _fitting(data: Pulled, fitted: Fitted) -> Pulled:
    """The data without the test stories that the base cannot take. The log and the data card say what does not fit."""
    for sentence in fitted.sentences[:NAMED]:
        get_run_logger().warning("%s", sentence)
    told = "".join(f"- {sentence}\n" for sentence in fitted.sentences[:NAMED])
    return replace(
        data,
        card=f"{data.card}\n{told}" if told else data.card,
        faulty_test_stories=data.faulty_test_stories | fitted.faulty_test_stories,
    )


def _check_source(config: RunConfig, data: Pulled) -> None:
    if config.data.source and (first := next(iter(dataset.load(data.folder, "test")), None)) is not None:
        _refuse_sample(config, first.story_id)


def check_source(config: RunConfig, version: DataVersion) -> None:
    """As a pull of this version would, but fetches nothing: only the name of its first test story is read."""
    if not config.data.source:
        return
    import pyarrow.parquet as pq

    for store in remotes.stores(versioning.repository(), version.md5):
        with suppress(FileNotFoundError):  # not in the cache
            listed = dict(compat.listed_files(store, version.md5))
            first = min((name for name in listed if name[-1].startswith("test-")), default=None)
            if first is not None:
                with store.fs.open(store.oid_to_path(listed[first]), "rb") as file:
                    names = pq.ParquetFile(file).read_row_group(0, columns=["story_id"]).column(0)
                _refuse_sample(config, names[0].as_py())
            return


def _refuse_sample(config: RunConfig, story_id: str) -> None:
    """Raises DataError when a preset for another data set would be trained on the sample's stories."""
    if sample.is_sample(story_id):
        raise DataError(
            f"The preset {config.name} is for {config.data.source}, and {config.data.target} is the sample's data: replace it "
            f"with `storyreason data import {config.data.source}`, or use it all the same with `--set data.source=null`."
        )


def _identify_base(name: str) -> DataVersion | None:
    """The DVC version of a base model's folder, or None when there is no DVC file beside it (another folder, the Hub)."""
    target = f"{name.rstrip('/')}.dvc"
    return versioning.identify(target, None) if Path(target).is_file() else None


def _refuse_missing(name: str) -> None:
    if name.startswith((".", "/")) and not Path(name).is_dir():
        raise ModelError(
            f"There is no base model folder {name}: name a folder with config.json, or a model on the Hub."
        )


def _base(config: BaseModelConfig, pulled: Pulled | None) -> Base:
    """The folder that is kept of what was pulled, a local folder, or the unchanged name of a model on the Hub."""
    name = config.name
    here = str(Path(name).absolute()) if Path(name).is_dir() else name
    folder = here if pulled is None else str(pulled.folder)
    revision = None if Path(folder).is_dir() else config.revision
    return Base(folder, model.load_identity(folder, revision), revision)


def stories_to_tell(config: DataConfig, data: Pulled) -> Iterator[dataset.Example]:
    """The test stories of a run, without those in which the check of `data` found a fault.

    The log counts and names the stories left out. Raises DataError when none is left.
    """
    split, faults = dataset.load(data.folder, "test"), data.faulty_test_stories
    wanted = split.story_ids()[: config.test_stories]
    if left_out := [faults[name] for name in wanted if name in faults]:
        get_run_logger().warning("%d of %d test stories left out: %s", len(left_out), len(wanted), "; ".join(left_out))
    if len(left_out) == len(wanted):
        raise DataError(f"No test story of {config.target} can be used: fix them, or raise data.test_stories.")
    return (split[place] for place, name in enumerate(wanted) if name not in faults)


def change(target: str, source: str, how: Change, revision: str | None = None, configuration: str | None = None) -> str:
    """Change the data by what `datasets` loads, here or from the Hub, make it a DVC version, push it, and announce it.

    Gives the report. Raises DataError, and nothing has changed, when the source does not fit, when the data has local
    changes, or when the version cannot be pushed. A killed change is undone, or is complete, at the next start.
    """
    with runs.lock(runs.root() / "change" / Path(target).stem):  # of two changes at a time, the first would be lost
        return _change(target, source, how, revision, configuration)


def _change(target: str, source: str, how: Change, revision: str | None, configuration: str | None) -> str:
    folder, first = Path(target.removesuffix(".dvc")), not Path(target).is_file()
    versioning.remote_of(versioning.repository())
    if not first:
        version = identify(DataConfig(target=target))
        if not versioning.is_current(version):
            versioning.fetch(version)
    elif folder.exists() and any(folder.iterdir()):
        raise DataError(
            f"{folder} has files that are not a version yet: keep them with `dvc add {folder}`, or remove them."
        )
    releasing.sweep(folder)
    made: list[DataVersion] = []

    def put(folder: Path, new: Path) -> None:
        made.append(releasing.publish(target, new))
        runs.replace(folder, new)

    with dataset.fetched(source, folder, configuration, revision) as place:
        changed = how(folder, place, put)
    if not made:
        return changed.summary()
    (version,) = made
    sent = _announce(target, version.md5, changed.summary())
    said = [changed.summary(), f"data version {version.md5[:8]} is pushed to {version.remote}{sent}"]
    if command := releasing.to_commit(version, first):
        said.append(f"to hand it on, commit it: {command}")
    return "\n".join(said)


def announce(target: str) -> str:
    """Announce the current data version, for one that came with a Git pull or whose event was lost.

    Raises DataError when no Prefect server is known or it is unreachable.
    """
    md5 = identify(DataConfig(target=target)).md5
    sent = _announce(target, md5, "announced")
    if not sent.endswith(NOTIFIED):
        raise DataError(
            f"Data version {md5[:8]} was not announced{sent or ': no Prefect server is known'}. Run `storyreason up`."
        )
    return f"data version {md5[:8]}{sent}"


def _announce(target: str, md5: str, change: str) -> str:
    """Send the event to Prefect, if a server is known, and say so for the report: a retraining may be waiting for it."""
    if not os.environ.get("PREFECT_API_URL"):
        return ""
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.events import Event

    resource = {"prefect.resource.id": f"{RESOURCE}.{target}", "prefect.resource.name": target}
    event = Event.model_validate(
        {"event": NEW_VERSION, "resource": resource, "payload": {"md5": md5, "change": change}}
    )
    try:
        with get_client(sync_client=True) as client:
            client.request("POST", "/events", json=[event.model_dump(mode="json")])
    except httpx.HTTPError as error:
        return f", Prefect could not be notified ({one_line(error)}): start a retraining by hand"
    return NOTIFIED
