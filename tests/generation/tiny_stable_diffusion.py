"""Write a Stable Diffusion with small random weights, in diffusers' layout: `python tiny_stable_diffusion.py FOLDER`.

Run by an environment that has torch. Every part is the published pipeline's own class, a thousandth of its size:
tokenizer, text encoder, UNet, autoencoder, PNDM scheduler, and a safety checker that flags about half of its images.
"""

import json
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig, CLIPImageProcessor, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

WIDTH = 32


def build(folder: Path, published_size: bool = False) -> None:
    """Write the model; it draws 64×64 images, or 512×512 from latents of 64×64 as the published one does."""
    torch.manual_seed(0)
    halvings = 3 if published_size else 1
    tokenizer = make_tokenizer(folder / "tokenizer")
    text = {
        "hidden_size": WIDTH,
        "intermediate_size": 37,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    vision = {**text, "image_size": 30, "patch_size": 6, "projection_dim": WIDTH}
    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    pipe = StableDiffusionPipeline(
        vae=AutoencoderKL(
            block_out_channels=(32, *(64,) * halvings),
            down_block_types=("DownEncoderBlock2D",) * (halvings + 1),
            up_block_types=("UpDecoderBlock2D",) * (halvings + 1),
            latent_channels=4,
            sample_size=512 if published_size else 64,
        ),
        text_encoder=CLIPTextModel(CLIPTextConfig(**text)),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(
            sample_size=64 if published_size else 32,
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=WIDTH,
            attention_head_dim=8,
        ),
        scheduler=scheduler,
        safety_checker=StableDiffusionSafetyChecker(
            CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH)
        ),
        feature_extractor=CLIPImageProcessor(size={"shortest_edge": 30}, crop_size={"height": 30, "width": 30}),
    )
    pipe.set_progress_bar_config(disable=True)
    flag_half(pipe)
    pipe.save_pretrained(folder)


def make_tokenizer(folder: Path) -> CLIPTokenizer:
    """Bytes and no merges: every prompt becomes its letters."""
    folder.mkdir(parents=True)
    letters = [chr(code) for code in range(33, 127)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)


def flag_half(pipe: StableDiffusionPipeline) -> None:
    """One concept in the direction in which images differ most from their mean; flagged from the median on."""
    checker = pipe.safety_checker
    images = pipe(["a photo"] * 16, num_inference_steps=4, generator=torch.manual_seed(1), output_type="pil").images
    pixels = pipe.feature_extractor(images, return_tensors="pt").pixel_values
    with torch.no_grad():
        embeds = torch.nn.functional.normalize(checker.visual_projection(checker.vision_model(pixels)[1]))
        concept = torch.linalg.svd(embeds - embeds.mean(0)).Vh[0]
        checker.concept_embeds[0] = concept
        checker.concept_embeds_weights[0] = (embeds @ concept).median()


if __name__ == "__main__":
    build(Path(sys.argv[1]))
