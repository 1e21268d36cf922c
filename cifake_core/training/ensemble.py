"""Several networks as one, whose logit is the mean of theirs: trained, exported and explained like any other."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import keras

from cifake_core.errors import ConfigurationError
from cifake_core.training import topologies


def of(members: Sequence[keras.Model]) -> keras.Model:
    """Put networks side by side (an ensemble: Lakshminarayanan et al. 2017, https://arxiv.org/abs/1612.01474).

    Block `n` is all members' last block at the n-th resolution, channel after channel, and lies on the way to the
    logit: a map of it is the sum of what the members' own channels say.

    Args:
        members: networks as `topologies.build` makes them; they share their layers with the result.

    Raises:
        ConfigurationError: their blocks are of different resolutions, so that no map shows them all.
    """
    stages = [_stages(member) for member in members]
    resolutions = [[stage.shape[1:3] for stage in found] for found in stages]
    if any(found != resolutions[0] for found in resolutions):
        each = ", ".join(f"{member.name}: {found}" for member, found in zip(members, resolutions, strict=True))
        raise ConfigurationError(f"networks side by side need blocks of the same resolutions ({each})")
    images = keras.Input(members[0].input_shape[1:], name="images")
    inputs, at = [images] * len(members), [member.input for member in members]
    for number, ends in enumerate(zip(*stages, strict=True), start=1):
        outputs = _apply(at, list(ends), inputs, f"stage{number}")
        block = keras.layers.Concatenate(name=f"block{number}")(outputs)
        edges = itertools.accumulate((end.shape[-1] for end in ends), initial=0)
        inputs, at = [_channels(block, start, stop) for start, stop in itertools.pairwise(edges)], list(ends)
    logits = _apply(at, [member.get_layer("logit").output for member in members], inputs, "head")
    mean = keras.layers.Average(name="logit", dtype="float32")(logits)
    real = keras.layers.Activation("sigmoid", name="probability_real", dtype="float32")(mean)
    return keras.Model(images, real, name="ensemble")


def _stages(member: keras.Model) -> list[keras.KerasTensor]:
    """A network's last block at each resolution, from the input on."""
    outputs = [member.get_layer(name).output for name in topologies.blocks(member)]
    return [list(same)[-1] for _, same in itertools.groupby(outputs, key=lambda output: output.shape[1:3])]


def _channels(x: keras.KerasTensor, start: int, stop: int) -> keras.KerasTensor:
    """`x[..., start:stop]` as a layer, for Keras' HDF5 files keep no operations; told so, it crops the last axis."""
    return keras.layers.Cropping2D(((0, 0), (start, x.shape[-1] - stop)), data_format="channels_first")(x)


def _apply(
    starts: list[keras.KerasTensor], ends: list[keras.KerasTensor], inputs: list[keras.KerasTensor], name: str
) -> list[keras.KerasTensor]:
    """Each member's layers from one of its tensors to another, on an input."""
    return [
        keras.Model(start, end, name=f"member{number}_{name}")(x)
        for number, (start, end, x) in enumerate(zip(starts, ends, inputs, strict=True), start=1)
    ]
