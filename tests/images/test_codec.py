import io
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cifake_core.errors import ImageRejectedError
from cifake_core.images import codec
from cifake_core.settings import settings


def encoded(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def two_halves(width: int = 48, height: int = 32) -> np.ndarray:
    """Left half red, right half blue."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = 255
    pixels[:, width // 2 :, 2] = 255
    return pixels


def noise(rng: np.random.Generator, size: int = 32) -> np.ndarray:
    return rng.integers(0, 256, (size, size, 3), dtype=np.uint8)


@pytest.mark.parametrize(("format", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_lossless_formats_decode_to_the_very_pixels(rng, format, options):
    pixels = noise(rng)
    decoded = codec.decode(encoded(Image.fromarray(pixels), format, **options))
    np.testing.assert_array_equal(decoded.pixels, pixels)
    assert (decoded.format, decoded.width, decoded.height) == (format, 32, 32)


def test_a_jpeg_decodes_to_about_what_went_in():
    decoded = codec.decode(codec.encode(two_halves()))
    assert np.abs(decoded.pixels[:, 4:20].mean((0, 1)) - [255, 0, 0]).max() < 3


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda p: p),
        (2, lambda p: p[:, ::-1]),
        (3, lambda p: p[::-1, ::-1]),
        (4, lambda p: p[::-1]),
        (5, lambda p: p.transpose(1, 0, 2)),
        (6, lambda p: np.rot90(p, -1)),
        (7, lambda p: p[::-1, ::-1].transpose(1, 0, 2)),
        (8, lambda p: np.rot90(p)),
    ],
)
def test_exif_orientation_is_applied(format, orientation, upright):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = two_halves()
    pixels[:8] = 0  # a dark top edge tells flips apart
    options = {"quality": 100} | ({"subsampling": 0} if format == "JPEG" else {"lossless": True})
    decoded = codec.decode(encoded(Image.fromarray(pixels), format, exif=exif, **options))
    assert np.abs(decoded.pixels.astype(int) - upright(pixels)).max() < 12


def test_transparency_shows_white():
    rgba = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert (codec.decode(encoded(rgba, "PNG")).pixels == 255).all()
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    np.testing.assert_allclose(codec.decode(encoded(half, "PNG")).pixels, 127, atol=1)
    grey_alpha = Image.new("LA", (8, 8), (0, 0))
    assert (codec.decode(encoded(grey_alpha, "PNG")).pixels == 255).all()


def test_a_palette_is_looked_up_and_its_transparent_colour_shows_white():
    palette = Image.fromarray(two_halves()).quantize(2)
    np.testing.assert_array_equal(codec.decode(encoded(palette, "PNG")).pixels, two_halves())
    clear = codec.decode(encoded(palette, "PNG", transparency=palette.getpixel((0, 0)))).pixels
    assert (clear[:, :24] == 255).all()
    np.testing.assert_array_equal(clear[:, 24:], two_halves()[:, 24:])


def test_16_bit_greyscale_is_scaled_not_clipped():
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    decoded = codec.decode(encoded(Image.fromarray(ramp), "PNG"))
    np.testing.assert_array_equal(decoded.pixels[..., 0], ramp >> 8)


@pytest.mark.parametrize("mode", ["L", "1"])
def test_greyscale_gets_three_equal_channels(mode):
    image = Image.fromarray(two_halves()).convert(mode)
    pixels = codec.decode(encoded(image, "PNG")).pixels
    assert pixels.shape == (32, 48, 3)
    assert (pixels[..., 0] == pixels[..., 1]).all()
    assert (pixels[..., 0] == pixels[..., 2]).all()


def test_cmyk_becomes_rgb():
    decoded = codec.decode(encoded(Image.fromarray(two_halves()).convert("CMYK"), "JPEG", quality=95))
    assert decoded.mode == "CMYK"
    assert np.abs(decoded.pixels[:, 4:20].mean((0, 1)) - [255, 0, 0]).max() < 6


def test_a_phone_jpeg_with_a_second_picture_gives_the_first():
    images = [Image.fromarray(two_halves()), Image.new("RGB", (8, 8))]
    decoded = codec.decode(encoded(images[0], "MPO", save_all=True, append_images=images[1:]))
    assert (decoded.format, decoded.width) == ("JPEG", 48)


def picture(format: str, **options) -> bytes:
    return encoded(Image.fromarray(two_halves()), format, **options)


def black(width: int, height: int) -> bytes:
    return encoded(Image.new("1", (width, height)), "PNG")


FRAMES = {"save_all": True, "append_images": [Image.new("RGB", (48, 32))]}
REJECTED = {  # made in the test: every process that collects would make 400 megapixels
    "no bytes": ("empty", lambda: b""),
    "text": ("unsupported_format", lambda: b"just a few words, called photo.jpg"),
    "zeros": ("unsupported_format", lambda: bytes(4096)),
    "a GIF": ("unsupported_format", lambda: picture("GIF")),
    "a BMP": ("unsupported_format", lambda: picture("BMP")),
    "a JPEG's first bytes": ("corrupt", lambda: picture("JPEG")[:20]),
    "most of a JPEG": ("corrupt", lambda: picture("JPEG")[:-20]),
    "half a PNG": ("corrupt", lambda: (png := picture("PNG"))[: len(png) * 2 // 3]),
    "an animated PNG": ("too_many_frames", lambda: picture("PNG", **FRAMES)),
    "an animated WebP": ("too_many_frames", lambda: picture("WEBP", **FRAMES)),
    "50 megapixels": ("too_many_pixels", lambda: black(10_000, 5_000)),
    "100 megapixels": ("too_many_pixels", lambda: black(10_000, 10_000)),
    "400 megapixels": ("too_many_pixels", lambda: black(20_000, 20_000)),
}


@pytest.mark.parametrize(("reason", "make"), REJECTED.values(), ids=REJECTED.keys())
def test_what_is_not_one_still_image_within_limits_is_refused_with_its_reason(reason, make):
    data = make()
    with pytest.raises(ImageRejectedError) as caught:
        codec.decode(data)
    assert caught.value.reason == reason
    assert "\n" not in str(caught.value)


def test_the_byte_limit_is_the_setting(monkeypatch):
    monkeypatch.setenv("CIFAKE_MAX_IMAGE_BYTES", "100")
    settings.cache_clear()
    with pytest.raises(ImageRejectedError) as caught:
        codec.decode(bytes(101))
    assert caught.value.reason == "too_many_bytes"


def test_resizing_crops_the_centre_square():
    wide = np.zeros((32, 96, 3), np.uint8)
    wide[:, 32:64] = 200
    assert (codec.resize(wide) == 200).all()
    assert codec.resize(wide, 224).shape == (224, 224, 3)


def test_normalising_keeps_canonical_bytes(rng):
    jpeg = codec.encode(noise(rng))
    normalised = codec.normalise(jpeg)
    assert normalised.jpeg == jpeg
    assert not normalised.resized
    assert not normalised.reencoded


@pytest.mark.parametrize(
    "change",
    [
        lambda im: encoded(im, "PNG"),
        lambda im: encoded(im, "JPEG", quality=80, subsampling="4:2:0"),
        lambda im: encoded(im, "JPEG", quality=75, subsampling="4:4:4"),
        lambda im: encoded(im, "JPEG", quality=75, subsampling="4:2:0", optimize=True),
        lambda im: encoded(im, "JPEG", quality=75, subsampling="4:2:0", comment=b"made by a camera"),
        lambda im: encoded(im, "JPEG", quality=75, subsampling="4:2:0", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"),
        lambda im: encoded(im.convert("L"), "JPEG", quality=75),
        lambda im: encoded(im.resize((64, 64)), "JPEG", quality=75, subsampling="4:2:0"),
        lambda im: codec.encode(np.asarray(im)) + b"trailing bytes",
        lambda im: codec.encode(np.asarray(im)) + b"more\xff\xd9",
    ],
    ids=["png", "q80", "444", "optimised", "comment", "exif", "grey", "64px", "trailer", "trailer with end marker"],
)
def test_everything_else_leaves_as_canonical(rng, change):
    data = change(Image.fromarray(noise(rng)))
    assert not codec.is_canonical(data)
    normalised = codec.normalise(data)
    assert normalised.reencoded
    assert codec.is_canonical(normalised.jpeg)
    assert codec.normalise(normalised.jpeg).jpeg == normalised.jpeg
    assert normalised.pixels.shape == (32, 32, 3)


def test_published_images_are_canonical(image_source):
    from pathlib import Path

    import pyarrow.parquet as pq

    file = Path(image_source) / "test.parquet"
    if not image_source or not file.is_file():
        from cifake_core.images.sample import OfflineSample

        table = OfflineSample().read("test")
    else:
        table = pq.read_table(file)
    assert all(codec.is_canonical(image["bytes"]) for image in table["image"].to_pylist())


SEEDS = [codec.encode(two_halves())] + [encoded(Image.fromarray(two_halves()), kind) for kind in ("PNG", "WEBP")]


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused(data):
    with pytest.raises(ImageRejectedError):
        codec.decode(data)


@given(st.sampled_from(SEEDS), st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=8), st.data())
def test_damaged_images_decode_or_are_refused_and_nothing_else(seed, changes, data):
    damaged = bytearray(seed)
    for position, value in changes:
        damaged[position % len(damaged)] = value
    cut = data.draw(st.integers(0, len(damaged)))
    with suppress(ImageRejectedError):
        assert codec.normalise(bytes(damaged[:cut])).pixels.shape == (32, 32, 3)
