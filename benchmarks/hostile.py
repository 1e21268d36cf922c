"""Hostile requests as bytes, by a seed: the same seed makes the same ones.

Mutated, truncated and mislabelled JPEG, PNG and WebP, decompression bombs, polyglots, broken forms and JSON, odd
headers and options, slow and abandoned bodies.
"""

from __future__ import annotations

import base64
import io
import json
import random
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import urlencode

import numpy as np
from PIL import Image

from benchmarks import common

SLOW_SHARE = 0.002  # a slow body keeps a connection for the service's whole patience
MODES = ("RGB", "L", "CMYK", "P", "1", "RGBA", "LA", "I;16")


@dataclass(frozen=True)
class Hostile:
    """One request as bytes; `slow` sends its body a byte now and then, `leave` goes away after sending that many."""

    kind: str
    wire: bytes
    slow: bool = False
    leave: int | None = None


def requests(seed: int, count: int) -> Iterator[Hostile]:
    """The requests that a seed makes."""
    rng = random.Random(seed)
    makers = (_mutated, _mutated, _truncated, _bomb, _polyglot, _odd_image, _wrong_type, _form, _json, _batch, _options)
    for _ in range(count):
        if rng.random() < SLOW_SHARE:
            yield Hostile("slow body", _post("/classify", b"x" * 1000), slow=True)
            continue
        maker = rng.choice((*makers, _headers, _protocol, _abandoned))
        yield maker(rng)


@cache
def good_images() -> list[bytes]:
    """Real images when there are any, in every format and several sizes."""
    _, pixels = common.images(12)
    made = []
    for k, each in enumerate(pixels):
        image = Image.fromarray(each).resize((32 * (1 + k % 4 * 3),) * 2)
        for form, options in (("JPEG", {"progressive": k % 2 == 0}), ("PNG", {}), ("WEBP", {"lossless": k % 2 == 0})):
            made.append(_saved(image, form, **options))
    return made


def _saved(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def _post(path: str, body: bytes, content_type: str = "image/jpeg", **headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Type: {content_type}", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def _path(rng: random.Random) -> str:
    return rng.choice(("/classify", "/classify", "/explain", "/explain_map"))


def _mutated(rng: random.Random) -> Hostile:
    data = bytearray(rng.choice(good_images()))
    for _ in range(rng.choice((1, 2, 8, 64))):
        at = rng.randrange(len(data))
        match rng.randrange(5):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at : at + rng.randrange(1, 9)] = rng.randbytes(rng.randrange(9))
            case 2:
                data[at : at + 4] = rng.choice((b"\xff" * 4, b"\x00" * 4, b"\x7f\xff\xff\xff", b"\x80\x00\x00\x00"))
            case 3:
                data[at:at] = data[: rng.randrange(64)]
            case 4:
                del data[at : at + rng.randrange(1, 64)]
        data = data or bytearray(b"\x00")
    return Hostile("mutated image", _post(_path(rng), bytes(data)))


def _truncated(rng: random.Random) -> Hostile:
    data = rng.choice(good_images())
    return Hostile("truncated image", _post(_path(rng), data[: rng.randrange(len(data))]))


def _png(width: int, height: int, data: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), *extra, (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


@cache
def _bombs() -> list[bytes]:
    zeros = zlib.compress(bytes(60_000_000), 9)
    wide = bytearray(_saved(Image.new("RGB", (16, 16)), "JPEG"))
    at = wide.index(b"\xff\xc0")
    wide[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    progressive = _saved(Image.new("RGB", (3000, 3000), "teal"), "JPEG", progressive=True)
    scan = progressive[progressive.rindex(b"\xff\xc4") : -2]
    frames = [Image.new("RGB", (64, 64), (k, k, k)) for k in range(100)]
    animated = {"save_all": True, "append_images": frames[1:]}
    return [
        _png(65_000, 65_000, zlib.compress(b"")),
        _png(2**31 - 1, 2**31 - 1, b""),
        _png(6000, 3300, zeros),
        _png(32, 32, zeros),
        _png(32, 32, zlib.compress(bytes(3200)), (b"zTXt", b"Comment\0\0" + zeros)),
        _png(32, 32, zlib.compress(bytes(3200)), (b"iCCP", b"icc\0\0" + zeros)),
        bytes(wide),
        progressive[:-2] + scan * 2000 + progressive[-2:],
        _saved(frames[0], "WEBP", **animated),
        _saved(frames[0], "PNG", **animated),
        _saved(Image.new("1", (9_000, 5_000)), "PNG"),
        _saved(Image.new("L", (16_000, 2)), "PNG"),
    ]


def _bomb(rng: random.Random) -> Hostile:
    return Hostile("bomb", _post(_path(rng), rng.choice(_bombs())))


def _polyglot(rng: random.Random) -> Hostile:
    image = rng.choice(good_images())
    tail = rng.choice((b"PK\x03\x04" + bytes(200), b"<script>alert(1)</script>", b"%PDF-1.7\n", b"#!/bin/sh\nexit 1\n"))
    data = rng.choice((image + tail, tail + image, image[:40] + tail + image[40:], image + image, b"GIF89a" + image))
    return Hostile("polyglot", _post(_path(rng), data, rng.choice(("image/png", "text/html", "application/pdf"))))


def _odd_image(rng: random.Random) -> Hostile:
    mode = rng.choice(MODES)
    size = rng.choice(((1, 1), (1, 700), (700, 1), (33, 31), (300, 200)))
    image = Image.fromarray(np.zeros(size, np.uint16)) if mode == "I;16" else Image.new(mode, size)
    form = "JPEG" if mode == "CMYK" else "PNG"
    exif = Image.Exif()
    exif[0x0112] = rng.randrange(12)  # orientation; there are eight
    exif[0x010E] = "x" * rng.choice((0, 60_000))
    return Hostile("odd image", _post(_path(rng), _saved(image, form, exif=exif)))


def _wrong_type(rng: random.Random) -> Hostile:
    gif, tiff, bmp = (_saved(Image.new("RGB", (32, 32)), form) for form in ("GIF", "TIFF", "BMP"))
    kinds = (
        b"",
        b"\x00",
        b"\xff\xd8",
        b"\x89PNG\r\n\x1a\n",
        b"RIFF\xff\xff\xff\xffWEBPVP8 ",
        b"%!PS-Adobe-3.0 EPSF-3.0",
    )
    data = rng.choice((*kinds, b"<svg xmlns='http://www.w3.org/2000/svg'/>", gif, tiff, bmp, rng.randbytes(5000)))
    return Hostile("wrong type", _post(_path(rng), data, rng.choice(("image/jpeg", "x", "", "image/png; q=\xff"))))


def _form(rng: random.Random) -> Hostile:
    image = rng.choice(good_images())
    head = b'Content-Disposition: form-data; name="image"; filename="a.jpg"\r\n'
    whole = b"--b\r\n" + head + b"\r\n" + image + b"\r\n--b--\r\n"
    body = rng.choice(
        (
            whole[: rng.randrange(len(whole))],
            whole.replace(b"--b", b"--c"),
            whole.replace(b'name="image"', b'name="' + b"i" * 100_000 + b'"'),
            whole.replace(b"\r\n\r\n", b"\r\n" + b"X: y\r\n" * 2000 + b"\r\n", 1),
            b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\n\r\n' * 3000 + b"--b--\r\n",
            whole.replace(head, b"Content-Disposition: form-data\r\n"),
            whole.replace(head, b"\x00\xff: \r\n"),
            whole.replace(b"\r\n", b"\n"),
            b"",
        )
    )
    kind = rng.choice(("b", '"b"', "", "b" * 5000, "\xff"))
    return Hostile(
        "form", _post(rng.choice(("/classify", "/classify_batch")), body, f"multipart/form-data; boundary={kind}")
    )


def _json(rng: random.Random) -> Hostile:
    encoded = base64.b64encode(rng.choice(good_images())).decode()
    images: tuple[Any, ...] = (None, 1, [], ["x"], "data:,", "=" * 99, encoded[:-3], "é" * 50, encoded)
    documents = (None, 1, [], {"images": {}}, {"images": [1]}, *({"image": each, "x": {}} for each in images))
    texts = (
        b"[" * 50_000,
        b'{"image": ' + b"9" * 5000 + b"}",
        b'{"image": "\\ud800"}',
        b"\xff\xfe",
        b"NaN",
        b'{"image"',
    )
    body = rng.choice((*texts, *(json.dumps(each).encode() for each in documents)))
    return Hostile("JSON", _post(rng.choice((_path(rng), "/classify_batch")), body, "application/json"))


def _batch(rng: random.Random) -> Hostile:
    images = [base64.b64encode(_body(rng)).decode() for _ in range(rng.choice((1, 5, 20, 64, 65, 300)))]
    return Hostile("batch", _post("/classify_batch", json.dumps({"images": images}).encode(), "application/json"))


def _body(rng: random.Random) -> bytes:
    """The body of a mutated or good image."""
    return rng.choice((rng.choice(good_images()), _mutated(rng).wire.partition(b"\r\n\r\n")[2]))


def _options(rng: random.Random) -> Hostile:
    values = ("", "gradcam", "nope", "block1,block1", ",", "all", "1e999", "-1", "nan", "0x20", "é\x00", "x" * 4000)
    names = ("method", "block", "target", "size", "alpha", "colormap", "guided", "other")
    query = urlencode([(rng.choice(names), rng.choice(values)) for _ in range(rng.randrange(1, 5))])
    path = rng.choice(("/explain", "/explain_map"))
    return Hostile("options", _post(f"{path}?{query}", rng.choice(good_images())))


def _headers(rng: random.Random) -> Hostile:
    body = rng.choice(good_images())
    chosen: dict[str, str] = rng.choice(
        (
            {"X_Request_ID": "x" * 5000},
            {"X_Request_ID": "\xff\xfe"},
            {"Cookie": "c" * 200_000},
            {f"X_{k}": "y" for k in range(3000)},
            {"Content_Encoding": "gzip"},
            {"Expect": "100-continue"},
            {"Authorization": "Bearer " + "\xff" * 100},
            {"Transfer_Encoding": "chunked"},
            {"Content_Length": "5"},
            {"Range": "bytes=0-", "Accept": "\x01", "Origin": "null"},
        )
    )
    return Hostile("headers", _post(_path(rng), body, **chosen))


def _protocol(rng: random.Random) -> Hostile:
    lines = (
        b"GET / HTTP/9.9\r\n\r\n",
        b"BREW /classify HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n",
        b"POST /classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /../../../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /page/..%2f..%2fapp.py HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /%ff%00 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(200),
        rng.randbytes(500) + b"\r\n\r\n",
    )
    return Hostile("protocol", rng.choice(lines))


def _abandoned(rng: random.Random) -> Hostile:
    wire = _post(_path(rng), rng.choice(good_images()))
    return Hostile("abandoned", wire, leave=rng.randrange(1, len(wire)))
