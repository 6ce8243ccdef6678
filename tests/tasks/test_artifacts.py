"""The bytes of versions in a store, on S3 and in a folder: each once, fetched whole and verified, however often killed."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prefect.states import Failed

from storyreason.errors import RegistryError
from tasks import artifacts
from tasks.artifacts import Stored
from tasks.faults import from_outside
from tests.stores import S3, s3
from tests.storyreason.test_guard import wait_for


@pytest.fixture(scope="module")
def bucket() -> Iterator[S3]:
    with s3() as store, pytest.MonkeyPatch.context() as patch:
        for name, value in {**store.environment, "AWS_MAX_ATTEMPTS": "1", "AWS_EC2_METADATA_DISABLED": "true"}.items():
            patch.setenv(name, value)
        yield store


@pytest.fixture(params=["s3", "folder"])
def where(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """What is in an empty store, on S3 and in a folder."""
    if request.param == "folder":
        monkeypatch.setenv("STORYREASON_ARTIFACTS", str(tmp_path / "store"))
        return lambda: [str(path) for path in (tmp_path / "store").rglob("*") if path.is_file()]
    bucket: S3 = request.getfixturevalue("bucket")
    prefix = f"models/{tmp_path.name}"
    monkeypatch.setenv("STORYREASON_ARTIFACTS", f"s3://storyreason/{prefix}")
    return lambda: bucket.names(prefix)


def files(folder: Path, **content: bytes) -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for name, found in content.items():
        (folder / name).write_bytes(found)
    return {f"model/{name}": folder / name for name in content}


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_only_checksums_that_every_server_of_s3_knows_are_sent(
    bucket: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORYREASON_ARTIFACTS", "s3://storyreason/plain")
    artifacts.put(files(tmp_path, weights=b"one" * 1000))
    for name in bucket.names("plain"):
        head = bucket._client().head_object(Bucket="storyreason", Key=name, ChecksumMode="ENABLED")
        assert not [said for said in head if said.startswith("Checksum")]


def test_a_folder_comes_back_as_it_was_and_what_versions_share_is_stored_once(
    where: Callable[[], list[str]], tmp_path: Path
) -> None:
    first = artifacts.put(files(tmp_path / "1", weights=b"one" * 1000, tokenizer=b"shared"))
    assert first.bytes == 3006 and artifacts.is_whole(first)
    before = len(where())
    second = artifacts.put(files(tmp_path / "2", weights=b"two" * 1000, tokenizer=b"shared"))
    assert len(where()) == before + 2  # its weights, and its list
    assert artifacts.put(files(tmp_path / "2", weights=b"two" * 1000, tokenizer=b"shared")) == second
    assert len(where()) == before + 2
    for stored, name in ((first, b"one"), (second, b"two")):
        artifacts.get(stored, tmp_path / "fetched")  # the second in place of the first
        assert content(tmp_path / "fetched") == {"model/weights": name * 1000, "model/tokenizer": b"shared"}


def test_in_a_folder_of_the_same_file_system_nothing_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORYREASON_ARTIFACTS", str(tmp_path / "store"))
    stored = artifacts.put(files(tmp_path / "1", weights=b"one"))
    artifacts.get(stored, tmp_path / "fetched")
    assert (tmp_path / "1" / "weights").stat().st_nlink in (1, 3)  # reflinks, or hard links


def test_a_fetch_goes_on_with_what_is_right_and_drops_what_is_not(
    where: Callable[[], list[str]], tmp_path: Path
) -> None:
    stored = artifacts.put(files(tmp_path / "1", one=b"1" * 500, two=b"2" * 500))
    fetched = tmp_path / "fetched"
    (fetched / "model").mkdir(parents=True)
    (fetched / "model" / "one").write_bytes(b"1" * 500)
    (fetched / "model" / ".x7aq.tmp").write_bytes(b"2" * 100)  # what a killed transfer leaves
    kept = (fetched / "model" / "one").stat().st_ino
    artifacts.get(stored, fetched)
    assert content(fetched) == {"model/one": b"1" * 500, "model/two": b"2" * 500}
    assert (fetched / "model" / "one").stat().st_ino == kept


@pytest.mark.parametrize("fault", ["other bytes", "half", "gone", "no list"])
def test_bytes_that_are_not_what_was_stored_are_refused_and_stored_again(
    fault: str, bucket: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = f"models/{tmp_path.name}"
    monkeypatch.setenv("STORYREASON_ARTIFACTS", f"s3://storyreason/{prefix}")
    given = files(tmp_path / "1", weights=b"one" * 100)
    stored = artifacts.put(given)
    (weights,) = [name for name in bucket.names(prefix) if not name.endswith(".dir")]
    (listed,) = [name for name in bucket.names(prefix) if name.endswith(".dir")]
    if fault in ("other bytes", "half"):
        bucket.put(weights, b"two" * 100 if fault == "other bytes" else b"one" * 50)
        sentence = r"weights from .* is not what was stored there \(its MD5 is not .*\): remove storyreason/models/"
    else:
        bucket.remove(weights if fault == "gone" else listed)
        sentence = r"The version is not whole in s3://.*: run `storyreason deploy` where it was registered"
    with pytest.raises(RegistryError, match=sentence):
        artifacts.get(stored, tmp_path / "fetched")
    assert not [path for path in (tmp_path / "fetched").rglob("*") if path.is_file()]
    # The advice: where it was registered it is stored again
    if fault == "other bytes":
        bucket.remove(weights)
    assert artifacts.is_whole(stored) == (fault == "half")
    assert artifacts.put(given) == stored
    artifacts.get(stored, tmp_path / "fetched")
    assert content(tmp_path / "fetched") == {"model/weights": b"one" * 100}


def test_a_list_that_names_a_place_outside_of_the_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORYREASON_ARTIFACTS", str(tmp_path / "store"))
    stored = artifacts.put({"../elsewhere": files(tmp_path / "1", weights=b"one")["model/weights"]})
    with pytest.raises(RegistryError, match=r"names \.\./elsewhere"):
        artifacts.get(stored, tmp_path / "fetched")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("address", "sentence", "again"),
    [
        ("s3://nobody/models", r"could not be stored in s3://nobody/models: .*check STORYREASON_ARTIFACTS", True),
        ("gopher://x", "STORYREASON_ARTIFACTS=gopher://x cannot be used: .*Unsupported URL", False),
        ("", "No store of versions is set: set STORYREASON_ARTIFACTS", False),
    ],
)
def test_a_store_that_refuses_is_named(
    address: str, sentence: str, again: bool, bucket: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORYREASON_ARTIFACTS", address)
    with pytest.raises(RegistryError, match=sentence) as refused:
        artifacts.put(files(tmp_path / "1", weights=b"one"))
    assert from_outside(None, None, Failed(data=refused.value)) == again


def test_only_what_no_version_needs_is_unreferenced_and_only_when_it_is_old(
    where: Callable[[], list[str]], tmp_path: Path
) -> None:
    kept = artifacts.put(files(tmp_path / "1", weights=b"one", tokenizer=b"shared"))
    artifacts.put(files(tmp_path / "2", weights=b"two!", tokenizer=b"shared"))
    assert artifacts.unreferenced({kept.name}, older=3600) == {}
    found = artifacts.unreferenced({kept.name}, older=-60)
    assert sorted(found.values())[0] == 4 and len(found) == 2
    for path in found:
        artifacts.remove(path)
    artifacts.get(kept, tmp_path / "fetched")
    assert len(where()) == 3


TRANSFER = """
import sys
from pathlib import Path
from tasks import artifacts
how, name, size, place, *files = sys.argv[1:]
if how == "put":
    artifacts.put({Path(file).name: Path(file) for file in files})
else:
    artifacts.get(artifacts.Stored(name, int(size)), Path(place))

"""


def transfer(how: str, stored: Stored, place: Path, *given: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", TRANSFER, how, stored.name, str(stored.bytes), str(place), *map(str, given)]
    return subprocess.Popen(command, env=os.environ.copy())


@pytest.mark.server
def test_killed_while_it_stores_and_while_it_fetches_it_goes_on_and_nothing_is_doubled(
    bucket: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = f"models/{tmp_path.name}"
    monkeypatch.setenv("STORYREASON_ARTIFACTS", f"s3://storyreason/{prefix}")
    given = [tmp_path / f"{number}.safetensors" for number in range(16)]
    for number, path in enumerate(given):
        path.write_bytes(os.urandom(4_000_000) + bytes([number]))
    nothing = Stored("", 0)
    killed = transfer("put", nothing, tmp_path, *given)
    wait_for(lambda: bool(bucket.names(prefix)), 60)  # the first file is there
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    if killed.returncode == -signal.SIGKILL:  # and had not ended before it was killed
        assert not [name for name in bucket.names(prefix) if name.endswith(".dir")]
    assert transfer("put", nothing, tmp_path, *given).wait() == 0
    stored = artifacts.put({path.name: path for path in given})
    assert len(bucket.names(prefix)) == len(given) + 1

    fetched = tmp_path / "fetched"
    killed = transfer("get", stored, fetched)
    wait_for(lambda: fetched.exists() and any(fetched.iterdir()), 60)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    again = transfer("get", stored, fetched)
    assert again.wait() == 0
    assert content(fetched) == {path.name: path.read_bytes() for path in given}
