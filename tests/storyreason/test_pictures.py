"""Whatever the bytes are, a picture is read or refused by one error."""

import base64
import io
import random
import zlib

import numpy as np
import pytest
from PIL import Image

from storyreason import dataset, pictures
from storyreason.errors import DataError
from storyreason.pictures import PictureError
from tests.storyreason.odd import PICTURES as ODD
from tests.storyreason.odd import Odd, pixels, saved


def encoded(format: str, size: tuple[int, int] = (40, 30)) -> bytes:
    out = io.BytesIO()
    Image.effect_noise(size, 60).convert("RGB").save(out, format)
    return out.getvalue()


PICTURES = {format: encoded(format) for format in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "MPO", "DDS", "AVIF")}


@pytest.mark.parametrize(
    ("format", "kind", "media_type"),
    [
        ("PNG", "png", "image/png"),
        ("JPEG", "jpeg", "image/jpeg"),
        ("WEBP", "webp", "image/webp"),
        ("GIF", "gif", "image/gif"),
        ("TIFF", None, None),
    ],
)
def test_type_size_and_pixels_are_read(format: str, kind: str | None, media_type: str | None) -> None:
    picture = PICTURES[format]
    assert pictures.sniff(picture) == kind
    assert pictures.header(picture) == (format, 40, 30)
    assert pictures.header(picture).media_type == media_type
    assert pictures.size(picture) == pictures.decoded_size(picture) == (40, 30)
    assert (pictures.rgb(picture).mode, pictures.rgb(picture).size) == ("RGB", (40, 30))


def test_only_the_formats_asked_for_are_opened() -> None:
    assert pictures.header(PICTURES["PNG"], ("PNG",)).format == "PNG"
    with pytest.raises(PictureError, match="unknown picture format"):
        pictures.header(PICTURES["TIFF"], ("PNG", "JPEG"))


def test_a_data_url_names_the_type_and_gives_the_picture_back() -> None:
    assert pictures.data_url(PICTURES["JPEG"]).startswith("data:image/jpeg;base64,")
    assert pictures.data_url(b"?").startswith("data:image/png;base64,")
    assert pictures.from_data_url(pictures.data_url(PICTURES["GIF"])) == PICTURES["GIF"]
    with pytest.raises(PictureError):
        pictures.from_data_url("data:image/png;base64,abc")


def test_a_thumbnail_keeps_the_shape() -> None:
    assert pictures.header(pictures.thumbnail(encoded("PNG", (400, 100)), 200)) == ("JPEG", 200, 50)


def bomb() -> bytes:
    """A header of more pixels than Pillow opens."""
    out = io.BytesIO()
    Image.new("1", (1, 1)).save(out, "PNG")
    head = bytearray(out.getvalue())
    head[16:24] = (50_000).to_bytes(4, "big") * 2
    return bytes(head[:29]) + base64.b16decode(f"{zlib.crc32(bytes(head[12:29])):08X}") + bytes(head[33:])


def test_too_many_pixels_are_a_fault_of_the_data_by_story_and_image() -> None:
    with pytest.raises(PictureError, match="pixels"):
        pictures.size(bomb())
    with pytest.raises(DataError, match=r"Story red-car-1, image 2: .*pixels"):
        dataset.sizes(dataset.Example("red-car-1", (PICTURES["PNG"], bomb()), "", ""))
    with pytest.raises(DataError, match=r"Story red-car-1, image 1 does not decode .*pixels"):
        pictures.open_frames([bomb()], "red-car-1")


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_damaged_pictures_raise_one_error_or_are_read_alike_by_all() -> None:
    """Pillow's decoders raise a dozen different errors, and read less than this module does."""
    luck = random.Random(1)
    seeds = [odd.encoded for odd in ODD.values() if 0 < len(odd.encoded) < 50_000]
    read = refused = 0
    for _ in range(3000):
        damaged = bytearray(luck.choice(seeds))
        for _ in range(luck.randint(1, 4)):
            at = luck.randrange(min(len(damaged), luck.choice((60, 300, 10_000))))
            if luck.random() < 0.6:
                damaged[at] = luck.randrange(256)
            elif luck.random() < 0.5:
                damaged[at:at] = luck.randbytes(luck.randint(1, 8))
            else:
                del damaged[at + 1 :]
        picture = bytes(damaged)
        pictures.as_stored(picture)
        try:
            canonical, seen, shown = pictures.canonical(picture), pictures.rgb(picture), pictures.shown(picture)
        except PictureError:
            refused += 1
            continue
        read += 1
        assert pictures.odd(canonical) == ()
        assert (pixels(canonical) == np.asarray(seen)).all() and (pixels(shown[0]) == np.asarray(seen)).all()
    assert read > 200 and refused > 500


TAKEN = {name: odd for name, odd in ODD.items() if not odd.refused}
REFUSED = {name: odd for name, odd in ODD.items() if odd.refused}


@pytest.mark.parametrize("odd", TAKEN.values(), ids=TAKEN)
def test_everything_sees_the_same_pixels(odd: Odd) -> None:
    assert odd.pixels is not None
    assert pictures.odd(odd.encoded) == odd.why
    assert (np.asarray(pictures.rgb(odd.encoded)) == odd.pixels).all()
    assert pictures.size(odd.encoded) == pictures.decoded_size(odd.encoded) == odd.pixels.shape[1::-1]

    canonical = pictures.canonical(odd.encoded)
    assert (canonical == odd.encoded) is (not odd.why), "ordinary pictures keep their bytes, others do not"
    assert (pixels(canonical) == odd.pixels).all(), "plain Pillow sees them too"
    assert pictures.odd(canonical) == () and pictures.canonical(canonical) is canonical
    assert pictures.header(canonical).format in pictures.KEPT_FORMATS


@pytest.mark.parametrize("odd", TAKEN.values(), ids=TAKEN)
def test_browsers_see_the_same_pixels_and_no_metadata(odd: Odd) -> None:
    shown, media_type = pictures.shown(odd.encoded)
    with Image.open(io.BytesIO(shown)) as picture:
        assert (np.asarray(picture.convert("RGB")) == odd.pixels).all()
        assert not {"exif", "icc_profile", "gamma", "transparency", "xmp", "comment"} & picture.info.keys()
        assert not getattr(picture, "is_animated", False)
    assert media_type == f"image/{pictures.sniff(shown)}"


@pytest.mark.parametrize("odd", TAKEN.values(), ids=TAKEN)
def test_a_data_set_keeps_the_pixels_it_has_always_had(odd: Odd) -> None:
    stored = pictures.as_stored(odd.encoded)
    assert (stored == odd.encoded) is (not odd.why)
    assert (np.asarray(pictures.rgb(stored)) == (odd.pixels if odd.stored is None else odd.stored)).all()
    assert (pixels(odd.encoded) == pixels(stored)).all(), "what training decoded before there was a policy"


@pytest.mark.parametrize("odd", REFUSED.values(), ids=REFUSED)
def test_what_is_refused_is_refused_by_every_reader(odd: Odd) -> None:
    for look in (pictures.canonical, pictures.decoded_size, pictures.rgb):
        with pytest.raises(PictureError) as caught:
            look(odd.encoded)
        assert odd.refused in f" {caught.value}"


def test_ordinary_pictures_are_those_that_the_sample_has(examples: list[dataset.Example]) -> None:
    assert all(pictures.canonical(image) is image for example in examples for image in example.images)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_a_jpeg_that_breaks_off_is_found_without_decoding_it_in_full(options: dict[str, int]) -> None:
    whole = saved(Image.effect_noise((333, 217), 50).convert("RGB"), "JPEG", **options)
    for end in range(len(whole) - 1, 700, -len(whole) // 50):
        cut = whole[:end]
        try:
            pixels(cut)
        except OSError:
            with pytest.raises(PictureError):
                pictures.canonical(cut)
        else:
            assert pictures.canonical(cut) is cut
