"""From training checkpoints to the two ONNX graphs that ship: weights in half precision, computed in single."""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from cifake_core.errors import ConfigurationError, ModelError
from cifake_core.generation import embedded, embedded_training, fidelity, generators
from cifake_core.generation import embedded_networks as networks
from cifake_core.generation.generators import Request
from cifake_core.images import codec
from cifake_core.settings import CLASSES
from cifake_core.verb import progress

OPSET = 17
TOLERANCE = 0.02  # of unit-variance velocities: what rounding weights to half precision may change
_HALVE_ABOVE = 256  # values; smaller tensors stay as they are


def export(folder: Path, real: np.ndarray, target: Path = embedded.WEIGHTS, images: int = 1000) -> embedded.Weights:
    """Export the averaged weights in `folder` to `target`, and check the graphs against PyTorch.

    The decoder ends with a filter that gives so many drawn images the sharpness of `real` ones, (N, 32, 32, 3) uint8.

    Raises:
        ConfigurationError: training has not been run in `folder`, or torch is not installed.
        ModelError: a graph's answers are too far from PyTorch's.
    """
    for name in ("autoencoder.pt", "denoiser.pt", embedded_training.LATENTS):
        if not (folder / name).exists():
            raise ConfigurationError(f"{folder}: no {name}; run `cifake generate train` first")
    embedded_training.prepare()
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as plain:
        _export(folder, Path(plain), np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]]))
        kernel = fidelity.sharpening(_drawn(Path(plain), images), real)
    return _export(folder, target, kernel)


def _drawn(weights: Path, count: int) -> np.ndarray:
    backend = embedded.Embedded(generators.named("embedded"), folder=weights)
    images = []
    for start in progress(range(0, count, backend.batch), "measuring sharpness", unit="batch"):
        seeds = range(start, min(start + backend.batch, count))
        images += backend.draw([Request(CLASSES[seed % len(CLASSES)], None, seed) for seed in seeds])
    return np.stack([codec.decode(codec.encode(image)).pixels for image in images if image is not None])


def _export(folder: Path, target: Path, kernel: np.ndarray) -> embedded.Weights:
    import torch

    with np.load(folder / embedded_training.LATENTS) as stored:
        mean, std = (torch.from_numpy(stored[name])[:, None, None] for name in ("mean", "std"))
        trained_on = {"images": len(stored["classes"]), "images_sha256": str(stored["images_sha256"])}
    unet = embedded_training.load(folder / "denoiser.pt", networks.denoiser())
    vae = embedded_training.load(folder / "autoencoder.pt", networks.autoencoder())
    sharpen = torch.from_numpy(kernel).float().expand(3, 1, 3, 3).contiguous()

    # The exporter takes weights only from registered submodules.
    class Denoiser(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unet = unet

        def forward(self, latents: Any, times: Any, classes: Any) -> Any:
            return self.unet(latents, times * networks.TIME_SCALE, class_labels=classes).sample

    class Decoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vae = vae

        def forward(self, latents: Any) -> Any:
            images = networks.unfold(self.vae.decode(latents * std + mean).sample)
            padded = torch.nn.functional.pad(images, (1, 1, 1, 1), "replicate")
            images = torch.nn.functional.conv2d(padded, sharpen, groups=3).clamp(-1, 1)
            return ((images + 1) * 127.5).round().permute(0, 2, 3, 1).to(torch.uint8)

    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(4, *embedded.LATENT, generator=generator)
    times, classes = torch.rand(4, generator=generator), torch.tensor([0, 3, 9, networks.NO_CLASS])
    _write(Denoiser(), (latents, times, classes), ("latents", "times", "classes"), "velocity", target)
    _write(Decoder(), (latents,), ("latents",), "images", target)
    ends = [torch.load(folder / f"{name}.pt", weights_only=True) for name in ("autoencoder", "denoiser")]
    described = embedded.Weights(
        sha256={
            name: hashlib.sha256((target / name).read_bytes()).hexdigest() for name in ("denoiser.onnx", "decoder.onnx")
        },
        training={
            "command": "cifake generate train --autoencoder-steps {} --steps {} --seed {}".format(
                *(end["step"] for end in ends), ends[1]["seed"]
            ),
            "denoiser_steps": ends[1]["step"],
            **trained_on,
            "sharpening": kernel.astype(float).round(4).tolist(),
        },
    )
    (target / embedded.FILE).write_text(described.model_dump_json(indent=2))
    return described


def _write(module: Any, inputs: tuple[Any, ...], names: tuple[str, ...], output: str, target: Path) -> None:
    import onnx
    import onnxruntime
    import torch

    file = target / ("denoiser.onnx" if output == "velocity" else "decoder.onnx")
    partial = file.with_suffix(".partial")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the TorchScript exporter says it is old; the newer one needs onnxscript
        torch.onnx.export(
            module.eval(),
            inputs,
            partial,
            input_names=list(names),
            output_names=[output],
            dynamic_axes={name: {0: "n"} for name in (*names, output)},
            opset_version=OPSET,
            dynamo=False,
        )
    onnx.save(_halve(onnx.load(partial)), partial)
    session = onnxruntime.InferenceSession(partial, providers=["CPUExecutionProvider"])
    got = session.run([output], {name: value.numpy() for name, value in zip(names, inputs, strict=True)})[0]
    with torch.no_grad():
        wanted = module(*inputs).numpy()
    worst = float(np.abs(got.astype(np.float32) - wanted).mean()) / (255.0 if output == "images" else 1.0)
    if worst > TOLERANCE:
        raise ModelError(f"{file.name}: answers {worst:.2g} away from PyTorch's; not exported")
    partial.replace(file)


def _halve(model: Any) -> Any:
    """Store large weights as float16 behind a Cast, which ONNX Runtime folds away when it loads the graph."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size > _HALVE_ABOVE:
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
            casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model
