"""The border to the `datasets` library: what `load_dataset` reads comes in as shards, and shards go out as its data sets.

Rows come in one at a time, whatever they are stored in:

| stored as | a story is |
|---|---|
| parquet, Arrow, JSON, a data set of the Hub | a row with the published columns; `images` are embedded, or paths of the folder |
| an image folder | a row of `metadata.jsonl` with `images_file_names` |
| WebDataset | the files of one name: its pictures by number, and the texts as `.json` or as `.story.txt` |
"""

import binascii
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storyreason.dataset import origin
from storyreason.dataset.changing import new_folder
from storyreason.dataset.shards import COLUMNS, SPLITS, Example, load, of_row, shards, write
from storyreason.errors import DataError

if TYPE_CHECKING:
    import datasets

log = logging.getLogger(__name__)

FEW = 1000
"""Files of a repository that are named one by one when they are fetched; of more, all of it is."""
_REQUIRED = tuple(column for column in COLUMNS if column != "frame_count")


def as_dataset(folder: Path | str, split: str) -> "datasets.Dataset":
    """A split as the `datasets` library has it, with pictures as pictures: for notebooks and other trainers.

    The library keeps a copy in its cache. Raises DataError when shards or columns are missing.
    """
    import datasets

    load(folder, split)  # names what is missing
    return datasets.Dataset.from_parquet([str(file) for file in shards(Path(folder), split)], split=split)


@contextmanager
def fetched(source: str, folder: Path, config: str | None = None, revision: str | None = None) -> Iterator[Path]:
    """A folder of shards with the stories of `source`: a folder or a file here, or a data set's name on the Hub.

    Shards are taken as they are. Everything else goes through `datasets`, one row after the other, into shards beside `folder`
    (the data that it is for), which are removed afterwards. Raises DataError with what is wrong with the source.
    """
    local = Path(source)
    with ExitStack() as held:
        if local.exists():
            place, options = _here(local, config)
            ours = local.is_dir() and any(_shards(place))
        else:
            place, options = _from_hub(source, config, revision)
            ours = set(_shards(place)) == {Path(file) for files in options["data_files"].values() for file in files}
        if ours:
            yield place
            return
        new = held.enter_context(new_folder(folder))
        for split, rows in _splits(source, options).items():
            write(_examples(rows, place, source), new, split)
        try:
            yield new
        except DataError as error:  # nobody knows the folder by its name
            raise DataError(str(error).replace(str(new), source)) from error


def _here(local: Path, config: str | None) -> tuple[Path, dict[str, Any]]:
    """A folder, and what `load_dataset` is told so that it reads it, or one file in it."""
    if local.is_dir():
        return local, {"path": str(local), "name": config}
    split = "test" if local.name.startswith("test") else "train"
    return local.parent, {"path": str(local.parent), "data_files": {split: local.name}}


def _shards(folder: Path) -> list[Path]:
    found = []
    for split in SPLITS:
        try:
            found += shards(folder, split)
        except DataError:
            continue
    return found


def _from_hub(name: str, config: str | None, revision: str | None) -> tuple[Path, dict[str, Any]]:
    """The folder with what a configuration of a repository needs, and what `load_dataset` is told.

    Files that were fetched before are not fetched again.
    """
    from datasets import load_dataset_builder
    from huggingface_hub import snapshot_download

    try:
        made = load_dataset_builder(name, config, revision=revision)
        # hf://datasets/someone/stories@4f1d…/data/train-00000-of-00001.parquet
        urls = {split: [str(one).partition("@")[2] for one in files] for split, files in made.config.data_files.items()}
        commit = next(iter(urls.values()))[0].partition("/")[0]
        paths = {split: [url.partition("/")[2] for url in files] for split, files in urls.items()}
        every = [path for files in paths.values() for path in files]
        named = len(every) <= FEW and made.name != "json"  # JSON names pictures beside it
        kept = snapshot_download(name, repo_type="dataset", revision=commit, allow_patterns=every if named else None)
    except Exception as error:  # the Hub's client raises its own, those of its HTTP library, OSError and ValueError
        raise DataError(
            f"{name!r} is not a folder here, and the data set cannot be fetched from the Hub: {_said(error)}"
        ) from error
    files = {split: [str(Path(kept, path)) for path in files] for split, files in paths.items()}
    return Path(kept), {"path": made.name, "data_files": files}


def _splits(source: str, options: dict[str, Any]) -> dict[str, Any]:
    """The splits of a folder, streamed, their pictures as bytes."""
    import datasets
    from datasets.packaged_modules.webdataset.webdataset import WebDataset

    try:
        made = datasets.load_dataset_builder(**options)
        if isinstance(made, WebDataset):
            tars = [Path(file) for split in SPLITS for file in made.config.data_files.get(split, ())]
            options = {**options, "features": _features(tars)}
        found = datasets.load_dataset(streaming=True, **options)
    except DataError:
        raise
    except Exception as error:  # the library raises errors of many kinds
        raise DataError(f"{source} is nothing that `datasets` can load: {_said(error)}") from error
    # Streamed JSON has no known features, and nothing to decode.
    chosen = {
        split: found[split].decode(False) if found[split].features else found[split]
        for split in SPLITS
        if split in found
    }
    if not chosen:
        raise DataError(
            f"{source} has the splits {', '.join(found)}; train and test are read: name its files or splits so."
        )
    if others := sorted(set(found) - set(chosen)):
        log.warning("%s: only train and test are read, not its splits %s.", source, ", ".join(others))
    return chosen


def _examples(rows: Any, base: Path, source: str) -> Iterator[Example]:
    number, read = 0, iter(rows)
    while True:
        try:
            row = next(read, None)
        except Exception as error:  # as above
            raise DataError(f"{source}, row {number + 1}: `datasets` cannot read it: {_said(error)}") from error
        if row is None:
            return
        number += 1
        row = _of_sample(row) if "__key__" in row else row
        missing = [column for column in _REQUIRED if column not in row]
        if missing:
            raise DataError(
                f"{source} has no column {', '.join(missing)} (it has {', '.join(row)}); required are "
                f"{', '.join(_REQUIRED)}: rename its columns."
            )
        images = [{"bytes": _picture(one, base, source, row["story_id"])} for one in row["images"] or ()]
        known = row if all(column in row for column in origin.COLUMNS) else {**row, "film": None}
        yield of_row({**known, "images": images, "frame_count": row.get("frame_count")}, raw=True)


def _picture(value: Any, base: Path, source: str, story_id: str) -> bytes:
    """The bytes of a picture: embedded, a data URL, or a path in the folder. Without any, `check` will name it."""
    if isinstance(value, Mapping):
        if value.get("bytes"):
            return bytes(value["bytes"])
        value = value.get("path")
    if not isinstance(value, str) or not value:
        return b""
    if value.startswith("data:"):
        try:
            return binascii.a2b_base64(value.partition(",")[2])
        except binascii.Error:
            return b""
    path = Path(os.path.normpath(base / value))
    if not path.is_relative_to(os.path.normpath(base)):
        raise DataError(f"{source}, story {story_id}: the picture {value} lies outside of the folder.")
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{source}, story {story_id}: the picture {value} cannot be read ({error.strerror}): paths count from {base}."
        ) from error


def _features(tars: list[Path]) -> "datasets.Features":
    """The fields of all samples of a WebDataset: by itself, the library knows those of the first few, and drops others."""
    import json
    import tarfile

    import datasets
    import pyarrow as pa
    from datasets.packaged_modules.webdataset.webdataset import WebDataset, base_plus_ext

    features: dict[str, Any] = {"__key__": datasets.Value("string"), "__url__": datasets.Value("string")}
    for path in tars:
        try:
            with tarfile.open(path) as archive:
                for member in archive:
                    _, field = base_plus_ext(member.name)
                    if field is None or field in features or not member.isfile():
                        continue
                    kind = field.rpartition(".")[2].lower()
                    features[field] = datasets.Value("string")
                    if kind in WebDataset.IMAGE_EXTENSIONS:
                        features[field] = datasets.Image(decode=False)
                    elif kind == "json" and (content := archive.extractfile(member)) is not None:
                        schema = pa.Table.from_pylist([json.load(content)]).schema
                        features[field] = dict(datasets.Features.from_arrow_schema(schema))
        except (tarfile.TarError, OSError, ValueError) as error:
            raise DataError(f"{path} is not a WebDataset ({_said(error)}): a tar archive is expected.") from error
    return datasets.Features(features)


def _of_sample(sample: Mapping[str, Any]) -> dict[str, Any]:
    """A sample of a WebDataset as a row.

    Its key is the story's ID; `black-bicycle-1.01.jpg` is the first picture of the story `black-bicycle-1`.
    """
    row: dict[str, Any] = {"story_id": sample["__key__"].rpartition("/")[2]}
    pictures = {}
    for field, value in sample.items():
        if value is None or field.startswith("__"):
            continue
        if isinstance(value, Mapping) and "bytes" in value:
            pictures[field] = value
        elif field == "json":
            row |= value
        else:
            row[field.removesuffix(".txt")] = value
    row["images"] = [pictures[field] for field in sorted(pictures, key=_by_number)]
    return row


def _by_number(field: str) -> tuple[int, str]:
    numbers = re.findall(r"\d+", field)
    return int(numbers[0]) if numbers else 0, field


def _said(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
