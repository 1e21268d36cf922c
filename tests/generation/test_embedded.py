import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from cifake_core.errors import ConfigurationError, ModelError
from cifake_core.generation import embedded, generators
from cifake_core.generation.generators import Request
from cifake_core.settings import CLASSES

ENTRY = generators.named("embedded")


@pytest.fixture(scope="module")
def backend():
    return embedded.Embedded(ENTRY, threads=1)


def test_an_image_depends_on_its_class_and_seed_only(backend):
    requests = [Request(name, None, seed) for seed in (1, 2) for name in CLASSES[:3]]
    together = backend.draw(requests)
    assert all(image.shape == (32, 32, 3) and image.dtype == np.uint8 for image in together)
    assert len({image.tobytes() for image in together}) == 6
    for request, image in zip(requests[::-1], together[::-1], strict=True):
        np.testing.assert_array_equal(backend.draw([request])[0], image)


def test_images_look_neither_flat_nor_like_noise(backend):
    images = np.stack(backend.draw([Request(name, None, 7) for name in CLASSES])).astype(float)
    assert images.std(axis=(1, 2)).mean() > 15
    neighbours = [np.corrcoef(i[:, :-1].ravel(), i[:, 1:].ravel())[0, 1] for i in images]
    assert min(neighbours) > 0.7


def test_classes_it_was_not_trained_on_are_refused(backend):
    with pytest.raises(ConfigurationError, match="draws the ten CIFAR-10 classes, not 'zebra'"):
        backend.draw([Request("zebra", None, 0)])


def test_the_weights_are_small_enough_to_ship_and_describe_themselves():
    files = [path for path in embedded.WEIGHTS.iterdir() if path.suffix != ".partial"]
    assert sum(path.stat().st_size for path in files) <= 15_000_000
    described = embedded.weights()
    assert described.training["denoiser_steps"] > 0
    assert generators.revision(ENTRY) == described.version


DAMAGE = {
    "cut short": (lambda file: file.write_bytes(file.read_bytes()[:-100]), "cut short or changed"),
    "changed": (lambda file: file.write_bytes(file.read_bytes()[:-1] + b"\0"), "cut short or changed"),
    "missing": (lambda file: file.unlink(), "No such file"),
}


@pytest.mark.parametrize(("damage", "said"), DAMAGE.values(), ids=DAMAGE.keys())
@pytest.mark.parametrize("name", ["denoiser.onnx", "decoder.onnx"])
def test_damaged_weights_are_named_before_anything_is_drawn(tmp_path, name, damage, said):
    folder = tmp_path / "weights"
    shutil.copytree(embedded.WEIGHTS, folder)
    damage(folder / name)
    with pytest.raises(ModelError, match=said) as refused:
        embedded.Embedded(ENTRY, folder=folder)
    assert name in str(refused.value)


def test_it_needs_neither_torch_nor_a_network():
    code = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise OSError('no network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from cifake_core.generation import generators as g\n"
        "image = g.open_backend(g.named('embedded'), 1).draw([g.Request('ship', None, 0)])[0]\n"
        "assert image.shape == (32, 32, 3)\n"
        "heavy = {'torch', 'diffusers', 'tensorflow', 'onnx'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, env=dict(os.environ))
