"""Pictures of videos: turned, tone-mapped, timed; and videos that are not what they should be."""

import struct
from pathlib import Path

import numpy as np
import pytest

from storyreason.errors import DataError
from storyreason.perception.video import HLG, PQ, Video, tone_mapped
from tests.storyreason.perception import videos


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 frames, 2 s."""
    return videos.write(tmp_path_factory.mktemp("clip") / "clip.mp4", videos.shots(24, 24))


def test_frames_have_numbers_and_time_codes(clip: Path) -> None:
    video = Video(clip)
    seen = list(video.frames())
    assert (video.count, video.rate, video.problem) == (48, 24, None)
    assert [one.number for one in seen] == list(range(48))
    assert [one.seconds for one in seen] == pytest.approx([at / 24 for at in range(48)], abs=1e-3)
    off = np.abs(seen[0].pixels().astype(int) - videos.shots(24)[0]).mean()
    assert seen[0].pixels().shape == (96, 160, 3) and off < 10
    assert np.abs(seen[0].small[:, :, ::-1].astype(int) - seen[0].pixels()).mean() < 10


def test_a_variable_frame_rate_is_told_by_the_time_codes(tmp_path: Path) -> None:
    times = [0.0, 0.04, 0.5, 0.54, 2.0, 2.5]
    path = videos.write(tmp_path / "a.mkv", videos.shots(6), seconds=times)
    assert [one.seconds for one in Video(path).frames()] == pytest.approx(times, abs=2e-3)


def test_a_turned_video_is_shown_upright(tmp_path: Path) -> None:
    """As phones film: the pixels lie on their side, and the header says so."""
    upright = videos.scene(3, (96, 160))
    path = videos.write(tmp_path / "a.mp4", [np.rot90(upright)] * 3)
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 4 + 4 + 20 + 16
    assert struct.unpack_from(">i", content, matrix) == (0x10000,)
    struct.pack_into(">9i", content, matrix, 0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000)  # 90 degrees clockwise
    path.write_bytes(content)
    (seen, *_) = Video(path).frames()
    assert seen.pixels().shape == (160, 96, 3) and seen.small.shape == (160, 96, 3)
    assert np.abs(seen.pixels().astype(int) - upright).mean() < 10


def test_wide_pixels_are_made_square(tmp_path: Path) -> None:
    path = videos.write(tmp_path / "a.mp4", [videos.scene(1)] * 3, sample_aspect_ratio=2)
    (seen, *_) = Video(path).frames()
    assert seen.pixels().shape == (96, 320, 3)


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_hdr_is_tone_mapped(tmp_path: Path, transfer: int) -> None:
    """A ramp of light stays a ramp, and paper white is light, which it is not in the stored values of PQ."""
    ramp = np.broadcast_to(np.linspace(0, 65535 * 0.75, 160), (96, 160))
    wide = np.repeat(ramp[:, :, None], 3, axis=2).astype(np.uint16)
    path = videos.write(tmp_path / "a.mp4", [wide] * 2, "libx265", pixel_format="yuv420p10le",
                        color_trc=transfer, color_primaries=9, colorspace=9)  # fmt: skip
    (seen, *_) = Video(path).frames()
    found = seen.pixels()[48].astype(int)
    assert found.dtype == int and (np.diff(found[4:-4:8], axis=0) >= -2).all()
    assert found[2].max() < 10 and found[-2].min() > {PQ: 240, HLG: 180}[transfer]
    assert np.ptp(found, axis=1).max() < 12  # grey stays grey


def test_tone_mapping_keeps_the_order_of_light() -> None:
    grey = np.repeat(np.linspace(0, 65535, 256).astype(np.uint16)[None, :, None], 3, axis=2)
    for transfer in (PQ, HLG):
        shown = tone_mapped(grey, transfer)[0, :, 0].astype(int)
        assert shown[0] == 0 and shown[-1] == 255 and (np.diff(shown) >= 0).all()


def test_a_video_that_breaks_off_is_kept_up_to_there(clip: Path, tmp_path: Path) -> None:
    whole = videos.write(tmp_path / "whole.mkv", videos.shots(60, 60))
    broken = tmp_path / "broken.mkv"
    broken.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    video = Video(broken)
    seen = list(video.frames())
    assert 20 < len(seen) < 120
    assert video.problem and video.problem.startswith(f"{broken} breaks off after ")
    assert video.problem.endswith("the frames up to there are kept.")
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(clip.read_bytes()[:-300])  # an MP4's index is at its end
    with pytest.raises(DataError, match=r"cut.mp4 cannot be read as a video \(.*\): copy or download it again"):
        Video(cut)


def test_a_title_in_another_encoding_does_not_matter(tmp_path: Path) -> None:
    path = videos.write(tmp_path / "a.mkv", videos.shots(3), title="Les annees")
    path.write_bytes(path.read_bytes().replace(b"annees", b"ann\xe9es"))
    assert len(list(Video(path).frames())) == 3


def test_what_has_no_pictures_is_said(tmp_path: Path) -> None:
    import av

    sound = tmp_path / "sound.mkv"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(DataError, match=r"sound.mkv has no picture stream"):
        Video(sound)
    empty = videos.write(tmp_path / "empty.avi", [])
    with pytest.raises(DataError, match=r"empty.avi (has no frames|cannot be read as a video)"):
        list(Video(empty).frames())
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(DataError, match=r"text.mp4 cannot be read as a video"):
        Video(tmp_path / "text.mp4")
