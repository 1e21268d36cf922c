"""Our maps beside pytorch-grad-cam's, on the same weights: a `seed` bundle's network written in torch.

.venv-generate/bin/python -m pip install grad-cam
.venv-generate/bin/python -m benchmarks.explain_parity BUNDLE

Compared before any upsampling, each map scaled to 0…1: largest difference, and Pearson correlation. A principal
component has no sign of its own, so eigen maps are compared with the better of two.
"""

from __future__ import annotations

import argparse
import sys
import types
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common
from cifake_core.bundle import Detector
from cifake_core.explain import cams, perturbation

CLASSES = {
    "gradcam": "GradCAM",
    "gradcam++": "GradCAMPlusPlus",
    "hirescam": "HiResCAM",
    "layercam": "LayerCAM",
    "xgradcam": "XGradCAM",
    "eigencam": "EigenCAM",
    "eigengradcam": "EigenGradCAM",
    "scorecam": "ScoreCAM",
}


def theirs() -> Any:
    """pytorch-grad-cam; its picture helpers want torchvision, whose compiled part fits one build of torch only."""
    for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional"):
        stand_in = types.ModuleType(name)
        stand_in.__path__ = []
        stand_in.__getattr__ = lambda _: object  # type: ignore[method-assign]
        sys.modules[name] = stand_in
    import pytorch_grad_cam

    return pytorch_grad_cam


def torch_copy(bundle: Path) -> Any:
    """The network of a bundle's score.onnx, of topology `seed`: images (N, 3, 32, 32) in 0…255 → logits (N, 1)."""
    import onnx
    import torch
    from onnx import numpy_helper
    from torch import nn

    graph = onnx.load(bundle / "score.onnx").graph
    weights = {each.name: numpy_helper.to_array(each) for each in graph.initializer}

    def block(number: int) -> nn.Sequential:
        kernel = weights[f"functional_1_1/block{number}_1/convolution/ReadVariableOp:0"]
        layer = nn.Conv2d(kernel.shape[1], kernel.shape[0], kernel.shape[2:])
        layer.weight.data = torch.tensor(kernel)
        layer.bias.data = torch.tensor(weights[f"functional_1_1/block{number}_1/Squeeze:0"])
        return nn.Sequential(layer, nn.ReLU())

    def dense(name: str, bias: str) -> nn.Linear:
        kernel = weights[f"functional_1_1/{name}_1/Cast/ReadVariableOp:0"]
        layer = nn.Linear(*kernel.shape)
        layer.weight.data = torch.tensor(kernel.T.copy())
        layer.bias.data = torch.tensor(weights[f"functional_1_1/{name}_1/{bias}/ReadVariableOp:0"])
        return layer

    class Copy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block1, self.block2, self.block3 = block(1), block(2), block(3)
            self.dense1, self.logit = dense("dense1", "BiasAdd"), dense("logit", "Add")

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            out = images / 255
            for each in (self.block1, self.block2, self.block3):
                out = nn.functional.max_pool2d(each(out), 2)
            out = out.permute(0, 2, 3, 1).flatten(1)
            return self.logit(nn.functional.relu(self.dense1(out)))

    return Copy().eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--images", type=int, default=32)
    options = parser.parse_args()
    import torch

    library = theirs()
    _, pixels = common.images(options.images)
    detector, network = Detector(options.bundle, threads=1), torch_copy(options.bundle)
    tensor = torch.tensor(pixels).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        logits = network(tensor)[:, 0].numpy()
    apart = float(np.abs(logits - detector.score(pixels)[0]).max())
    if apart > 1e-3:
        raise SystemExit(f"the torch copy's logits differ by {apart:.2g}")
    out = detector.explain(pixels)
    table: dict[str, dict[str, Any]] = {}
    for block in (block.name for block in detector.info.blocks):
        for method, kind in CLASSES.items():
            for label, sign in (("REAL", 1), ("FAKE", -1)):
                expected = _theirs(getattr(library, kind), network, getattr(network, block), tensor, sign)
                found = _ours(method, detector, pixels, out.activations[block], out.gradients[block] * sign, sign)
                table.setdefault(f"{method} {block}", {})[label] = _compare(found, expected, "eigen" in method)
    common.write_result(
        "explain_parity",
        {
            "what": "our maps beside pytorch-grad-cam's, scaled to 0…1 before upsampling",
            "images": len(pixels),
            "dataset_version": detector.info.dataset_version,
            "topology": detector.info.topology,
            "logits_apart": apart,
            "maps": table,
            "machine": common.machine("onnxruntime") | {name: version(name) for name in ("torch", "grad-cam")},
        },
    )


def _ours(
    method: str, detector: Detector, pixels: np.ndarray, activations: np.ndarray, gradients: np.ndarray, sign: int
) -> np.ndarray:
    if method == "scorecam":
        signs = np.full(len(pixels), sign, np.float32)
        return perturbation.scorecam(detector.score, pixels, activations, signs)
    return cams.METHODS[method](activations, gradients)


def _theirs(kind: Any, network: Any, layer: Any, tensor: Any, sign: int) -> np.ndarray:
    targets: list[Callable[[Any], Any]] = [lambda output: output[0] * sign] * len(tensor)
    with kind(network, [layer]) as cam:
        cam(tensor, targets)  # fills its hooks
        activations = cam.activations_and_grads.activations[0].numpy()
        held = cam.activations_and_grads.gradients
        gradients = held[0].numpy() if held else np.zeros_like(activations)
        return np.asarray(cam.get_cam_image(tensor, layer, targets, activations, gradients, False))


def _compare(found: np.ndarray, expected: np.ndarray, either_sign: bool) -> dict[str, float]:
    worst, correlation = 0.0, []
    for ours, other in zip(cams.normalise(found), expected, strict=True):
        signs = (1, -1) if either_sign else (1,)
        scaled = [cams.normalise(np.maximum(other * sign, 0)[None].astype(np.float32))[0] for sign in signs]
        best = min(scaled, key=lambda each: float(np.abs(ours - each).max()))
        worst = max(worst, float(np.abs(ours - best).max()))
        if ours.std() and best.std():
            correlation.append(float(np.corrcoef(ours.ravel(), best.ravel())[0, 1]))
    return {"largest_difference": float(f"{worst:.2g}"), "correlation": round(float(np.mean(correlation)), 6)}


if __name__ == "__main__":
    main()
