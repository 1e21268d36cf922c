"""The embedded generator's two networks, both diffusers' own classes; sizes chosen for two CPU cores.

An image (32×32×3) is folded to 16×16×12 (pixel unshuffle: a quarter of the convolution work), encoded to a
latent of 8×8×6 by `AutoencoderKL` (Rombach et al. 2022, https://arxiv.org/abs/2112.10752), and a `UNet2DModel`
learns rectified flow on that latent (Liu et al. 2023, https://arxiv.org/abs/2209.03003): at time t in [0, 1] the
noisy latent is (1 − t)·latent + t·noise and the network answers noise − latent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

from cifake_core.settings import CLASSES

FOLD = 2
LATENT_SIZE, LATENT_CHANNELS = 8, 6
NO_CLASS = len(CLASSES)  # the class index that means "any", for classifier-free guidance
TIME_SCALE = 1000.0  # the network's time embedding expects 0 … 1000


def autoencoder() -> Any:
    """An untrained `AutoencoderKL` on folded images: (N, 12, 16, 16) in [-1, 1] ↔ (N, 6, 8, 8)."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        in_channels=3 * FOLD**2,
        out_channels=3 * FOLD**2,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(48, 96),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=16,
        sample_size=16,
        mid_block_add_attention=False,
    )


def denoiser() -> Any:
    """An untrained `UNet2DModel`: latents (N, 6, 8, 8), times (N,), class indices (N,) 0 … 10 → (N, 6, 8, 8)."""
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(96, 176),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=16,
        attention_head_dim=44,
        resnet_time_scale_shift="scale_shift",
        num_class_embeds=len(CLASSES) + 1,
    )


def fold(images: torch.Tensor) -> torch.Tensor:
    """(N, 3, 32, 32) → (N, 12, 16, 16)."""
    import torch

    return torch.nn.functional.pixel_unshuffle(images, FOLD)


def unfold(folded: torch.Tensor) -> torch.Tensor:
    """(N, 12, 16, 16) → (N, 3, 32, 32)."""
    import torch

    return torch.nn.functional.pixel_shuffle(folded, FOLD)
