"""Model versions in MLflow with their lineage, and the aliases that say which of them is served. Registration as a step."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import get_run_logger
from prefect.exceptions import MissingContextError

from storyreason import model, runs
from storyreason.config import RegistryConfig, RunConfig
from storyreason.errors import RegistryError
from tasks import artifacts, bases, cache, views
from tasks.artifacts import Stored
from tasks.data import Base
from tasks.results import Registered, Trained
from tasks.steps import Work, step
from tasks.tracking import TAG, client, comes_of, experiment_of_versions, if_there, lineage

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

VERSION = 1
CARD = """# {name}

Looks at a sequence of images, writes an analysis (tables of characters, objects, settings and narrative phases, with boxes \
and IDs that stay with an entity), and tells a story in which every mention is tied to those IDs (arXiv 2505.10292).

| | |
|---|---|
{rows}

{loads} Its scores are in the MLflow run.
"""
"""MLflow's pages keep line breaks, so each paragraph is one line."""
LOADS = {
    "merged": "Loads as it is: `AutoModelForImageTextToText.from_pretrained(folder)`, `AutoProcessor.from_pretrained(folder)`, "
    "or `vllm serve folder --generation-config vllm`.",
    "adapter": 'An adapter: `model = AutoModelForImageTextToText.from_pretrained(folder + "/base")`, '
    "`PeftModel.from_pretrained(model, folder)`, `AutoProcessor.from_pretrained(folder)`.",
}
"""How a notebook loads a version of each form. The base of an adapter is in its folder, or on the Hub by the name above."""
FILES = """
[Its files]({files}) can be looked at and downloaded here. `storyreason fetch models:/{name}/{number}` prints their folder, on \
any machine with this MLflow and the store of its versions, and fetches and verifies what is missing there.
"""
"""The end of a version's description in MLflow."""
MODEL = """Looks at a sequence of images and tells a grounded story (arXiv 2505.10292).

`champion` is served, `challenger` was registered last, `previous` was served before: `storyreason deploy previous` rolls back.
Each version's description begins with its scores and the gate's decision; its source run holds all scores, their intervals,
tables and story pages.
"""
UNSCORED = "Not scored yet."
TAKEN_DOWN, REPLACES = "taken_down", "replaces"
"""Tags: of a champion that somebody replaced with `storyreason deploy`; of a champion whose move has not ended yet."""


@dataclass(frozen=True)
class Version:
    """A registered version of the storyteller, and the folder that holds exactly what is evaluated and served."""

    name: str
    number: str
    folder: str
    identity: str
    """Names the content of the folder: the fingerprint of the register step."""
    run_id: str
    data_md5: str
    stored: Stored | None = None
    """Its bytes in the store for other machines."""
    base: Stored | None = None
    """Those of the base that its adapter goes over."""


def fingerprint(train: str, model: str, settings: RegistryConfig) -> str:
    """What determines a version: its training, the registered model that it belongs to, and its form."""
    given = runs.deciding(settings, always=())
    return runs.fingerprint(step="register", version=VERSION, train=train, model=model, **given)


def _named_by(config: RunConfig, base: Base, trained: Trained) -> str:
    return fingerprint(trained.fingerprint, config.model, config.registry)


@step(_named_by, retries=2)
def register(work: Work, config: RunConfig, base: Base, trained: Trained) -> Registered:
    """Write once the model folder that is evaluated and served, and register it as a version in MLflow."""
    target = work.folder / "model"
    stories = trained.result.with_name("training_stories.json")
    runs.write_bytes(work.folder / stories.name, stories.read_bytes())  # first: a killed run may have finished the rest
    if not target.exists():
        card, said = _card(config, trained), get_run_logger().info
        write_model(config, base, trained.result, target, card, said)
    number = _register(config, work.fingerprint, target, trained, _store(target) if artifacts.address() else {})
    get_run_logger().info("registered %s version %s: %s", config.model, number, target)
    if not config.training.keep_checkpoints:
        drop_checkpoints(trained)
    return Registered(
        files=("model/config.json", "training_stories.json"),
        name=config.model,
        number=number,
        folder=target,
        identity=work.fingerprint,
        run_id=trained.run_id,
        data_md5=trained.data_md5,
    )


def write_model(
    config: RunConfig, base: Base, result: Path, target: Path, card: str, say: Callable[[str], None]
) -> None:
    """Write the model folder of a training's result, in the form of versions. Raises ModelError."""
    of = config.base
    if config.registry.form == "merged":
        model.write_folder(base.folder, result, target, card, of.revision, say=say)
    else:
        model.write_adapter(bases.keep(base), base.identity, result, target, card, of.name, of.revision, say=say)


def drop_checkpoints(trained: Trained) -> None:
    """Remove the checkpoints of a complete training: with optimizer state, they are several times its result."""
    from storyreason.training import checkpoints

    checkpoints.clear(trained.result.parent, whole=True)


def _register(config: RunConfig, fingerprint: str, folder: Path, trained: Trained, stored: dict[str, str]) -> str:
    """The number of a new version, or of the one that a killed run has already registered."""
    import mlflow

    store = client()
    for found in store.search_model_versions(f"name = '{config.model}'"):
        if comes_of(found, fingerprint, trained.run_id):
            return str(found.version)
    tags = lineage(
        register=fingerprint,
        folder=str(folder.relative_to(runs.root())),
        train=trained.fingerprint,
        data_md5=trained.data_md5,
        base=config.base.name,
        preset=config.name,
        **stored,
    )
    logged = store.create_logged_model(experiment_of_versions(), config.model, source_run_id=trained.run_id, tags=tags)
    store.finalize_logged_model(logged.model_id, "READY")
    version = mlflow.register_model(f"models:/{logged.model_id}", config.model, tags=tags)
    store.update_registered_model(config.model, MODEL)
    files = views.files(logged.experiment_id, logged.model_id)
    card = _card(config, trained) + FILES.format(files=files, name=config.model, number=version.version)
    store.update_model_version(config.model, version.version, f"{UNSCORED}\n\n{card}")
    store.set_registered_model_alias(config.model, "challenger", version.version)
    return str(version.version)


def _store(folder: Path) -> dict[str, str]:
    """Store the bytes of a version for other machines; the tags that name them. Raises RegistryError."""
    stored = {"artifact": artifacts.put(cache.own(folder), _say())}
    if base := cache.base(folder):
        stored["base_artifact"] = artifacts.put(base, _say())
    return {tag: f"{one.name} {one.bytes}" for tag, one in stored.items()}


def of_model(identity: str) -> Version | None:
    """The version that was registered from the logged model with this ID in MLflow, or None."""
    model = if_there(lambda: client().get_logged_model(identity))
    named = json.loads(model.tags.get("mlflow.modelVersions", "[]")) if model else []
    return version(named[0]["name"], str(named[0]["version"])) if named else None


def _say() -> artifacts.Say:
    """Where a transfer says how far it is: the run's log, in a run."""
    try:
        return get_run_logger().info
    except MissingContextError:
        return artifacts.log.info


def _card(config: RunConfig, trained: Trained) -> str:
    facts = {
        "base model": config.base.name,
        "preset": config.name,
        "trained": config.training.mode,
        **({"improved": config.improve.method} if trained.improved else {}),
        "boxes it writes": config.training.boxes,
        "data (md5)": trained.data_md5,
        "code (git commit)": lineage()[f"{TAG}git_commit"],
        "MLflow run": trained.run_id,
    }
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return CARD.format(name=config.model, rows=rows, loads=LOADS[config.registry.form])


def version(name: str, which: str) -> Version:
    """A registered version by number or alias. Raises RegistryError when there is none."""
    found = alias(name, which)
    if found is None:
        raise RegistryError(
            f"MLflow has no {name} with version or alias {which!r}: look at its versions in MLflow, or run `storyreason retrain`."
        )
    return found


def with_weights(name: str, which: str, say: artifacts.Say | None = None) -> Version:
    """The same, for a use of its weights, which are fetched if they are not here. Raises RegistryError when they are gone."""
    found = fetched(version(name, which), say)
    if not (Path(found.folder) / "config.json").is_file():
        raise RegistryError(
            f"The weights of {name} version {found.number} are gone from {found.folder}: name another version, or run "
            "`storyreason retrain` with the settings of its MLflow run to make them again."
        )
    bases.check(found.folder)
    return found


def fetched(found: Version, say: artifacts.Say | None = None) -> Version:
    """The version with its folder on this machine: fetched from the store if it is not here, stored there if it was not.

    The folder stays until this process ends (`cache.hold`). Unchanged if it is neither here nor there. Raises RegistryError
    when it cannot be fetched.
    """
    say = say or _say()
    if not (Path(found.folder) / "config.json").is_file() or not cache.hold(found.folder):
        if found.stored is None:
            return found
        say(f"fetching {found.name} version {found.number} from {artifacts.address()}")
        return replace(found, folder=str(cache.fetch(found.identity, found.stored, found.base, say)))
    if artifacts.address() and not cache.is_fetched(found.folder):
        try:
            if found.stored is None or not all(artifacts.is_whole(one) for one in (found.stored, found.base) if one):
                tag_version(found, **_store(Path(found.folder)))
        except RegistryError as error:  # it can be used here all the same
            say(f"{found.name} version {found.number} is not stored for other machines: {error}")
    return found


def champion(name: str) -> Version | None:
    """The champion with its weights on this machine, or None."""
    found = alias(name, "champion")
    return None if found is None else fetched(found)


def alias(name: str, which: str) -> Version | None:
    """The version that an alias or a number names, or None. Raises RegistryError when MLflow is unreachable."""
    ask = client().get_model_version if which.isdigit() else client().get_model_version_by_alias
    found = if_there(lambda: ask(name, which))
    return None if found is None else _from_mlflow(found)


def number_of(name: str, alias: str) -> str | None:
    """The number of the version that an alias names, whoever registered it; None if there is none. Raises RegistryError."""
    found = if_there(lambda: client().get_model_version_by_alias(name, alias))
    return None if found is None else str(found.version)


def models() -> list[str]:
    """The names of all registered models."""
    return [str(found.name) for found in client().search_registered_models()]


def versions(name: str) -> list[Version]:
    """All versions of a model that this project has registered."""
    found = client().search_model_versions(f"name = '{name}'")
    return [_from_mlflow(one) for one in found if f"{TAG}folder" in one.tags]


def aliases(name: str) -> dict[str, str]:
    """The aliases of a model, with the number of the version that each names."""
    found = client().get_registered_model(name).aliases
    return {str(alias): str(number) for alias, number in found.items()}


def aliased(name: str) -> set[str]:
    """The numbers of the versions that an alias names."""
    return set(aliases(name).values())


def move_champion(new: Version, by_hand: bool = False) -> None:
    """Make a served version the champion; the old champion becomes `previous`. Does nothing if it is the champion already.

    When somebody did this by hand, a tag on the old champion keeps a retraining from promoting it again by itself.
    A move that was killed ends when it is repeated: until then `previous` is what a rollback goes back to, and a tag says more.
    """
    old = number_of(new.name, "champion")
    if old != new.number:
        tag_version(new, **{REPLACES: old or ""})
        client().set_registered_model_alias(new.name, "champion", new.number)
    before = tags_of(new).get(REPLACES)
    replaced(new.name, new.number, new.number if before is None else before or None, by_hand)
    if before is not None:
        client().delete_model_version_tag(new.name, new.number, TAG + REPLACES)


def replaced(name: str, new: str, old: str | None, by_hand: bool) -> None:
    """Note with the versions that one took the place of another as the champion: `previous`, and who is not to come back."""
    mlflow = client()
    taken_down = TAG + TAKEN_DOWN
    if by_hand and taken_down in mlflow.get_model_version(name, new).tags:
        mlflow.delete_model_version_tag(name, new, taken_down)
    if old is None or old == new:
        return
    if by_hand:
        mlflow.set_model_version_tag(name, old, taken_down, f"for version {new}")
    mlflow.set_registered_model_alias(name, "previous", old)


def describe(which: Version, sentence: str) -> None:
    """Write a sentence over a version's card, in place of the one before: the list of versions shows it first."""
    mlflow = client()
    before = str(mlflow.get_model_version(which.name, which.number).description or "")
    card = before[before.find("# ") :] if "# " in before else ""
    mlflow.update_model_version(which.name, which.number, f"{sentence}\n\n{card}".strip())


def tag_version(which: Version, **tags: str) -> None:
    """Write this project's tags on a model version."""
    for key, value in tags.items():
        client().set_model_version_tag(which.name, which.number, TAG + key, value)


def tags_of(which: Version) -> dict[str, str]:
    """This project's tags on a model version, by name without the prefix."""
    tags = client().get_model_version(which.name, which.number).tags
    return {key.removeprefix(TAG): str(value) for key, value in tags.items() if key.startswith(TAG)}


def _from_mlflow(found: "ModelVersion") -> Version:
    tags = found.tags
    if lacking := [name for name in ("folder", "register") if TAG + name not in tags]:
        raise RegistryError(
            f"{found.name} version {found.version} in MLflow was not registered by a retraining (it has no tag "
            f"{TAG}{lacking[0]}): name another version, or move its alias to one that was."
        )
    return Version(
        name=found.name,
        number=str(found.version),
        folder=str(cache.place(tags[f"{TAG}folder"], tags[f"{TAG}register"])),
        identity=tags[f"{TAG}register"],
        run_id=str(found.run_id),
        data_md5=tags.get(f"{TAG}data_md5", ""),
        stored=_stored(tags, "artifact"),
        base=_stored(tags, "base_artifact"),
    )


def _stored(tags: dict[str, str], tag: str) -> Stored | None:
    name, _, size = tags.get(TAG + tag, "").partition(" ")
    return Stored(name, int(size)) if name and size.isdigit() else None
