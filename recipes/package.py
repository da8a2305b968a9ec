"""Turns a training run into the folder that ships: fp16 weights, loaded as fp32, with processor and tokenizer.

python -m mm.recipes.package runs/mm-tiny/model checkpoints/mm-tiny
"""

import argparse
from pathlib import Path

import torch
from transformers import AutoTokenizer, GenerationConfig

from ..configuration.mm import MMConfig
from ..conversion_scripts.efficientnet_lite import IMAGE_MEAN, IMAGE_STD
from ..modeling_mm.tasks.generation import MMForConditionalGeneration
from ..modeling_mm.tasks.pretraining import MMForPreTraining
from ..processing.images.processor import MMImageProcessorPil
from ..processing.processor import MMProcessor

LIMIT = 15_000_000  # bytes of the whole folder


def build_image_processor(image_size: int) -> MMImageProcessorPil:
    """What training did to its drawings: cut to the content, a white square, EfficientNet-Lite's normalisation."""
    return MMImageProcessorPil(
        size={"height": image_size, "width": image_size},
        image_mean=IMAGE_MEAN,
        image_std=IMAGE_STD,
        do_crop_content=True,
        content_threshold=8,
    )


def build_processor(tokenizer, image_size: int) -> MMProcessor:
    return MMProcessor(build_image_processor(image_size), tokenizer)


def package(run: Path, output: Path, num_beams: int = 1) -> int:
    """Writes the folder and returns its size in bytes.

    Parameters are stored in fp16 and config.json says float32, so loading gives an fp32 model of the rounded weights.
    The folded norms' statistics stay in fp32: they scale whole channels, and are 84 thousand numbers.

    Raises: ValueError if the folder is larger than LIMIT.
    """
    several = bool(MMConfig.from_pretrained(run).pretraining_losses)
    model = (MMForPreTraining if several else MMForConditionalGeneration).from_pretrained(run)
    model.config.label_smoothing = 0.0  # of our training; fine-tuning reports the plain loss
    for parameter in model.parameters():
        parameter.data = parameter.data.half()
    model.save_pretrained(output)
    GenerationConfig(
        bos_token_id=model.config.text_config.bos_token_id,
        eos_token_id=model.config.text_config.eos_token_id,
        pad_token_id=model.config.text_config.pad_token_id,
        max_new_tokens=48,  # of 64 positions: names take 24, and a fine-tune may write longer texts
        num_beams=num_beams,
    ).save_pretrained(output)
    model.config.dtype = model.config.vision_config.dtype = model.config.text_config.dtype = torch.float32
    model.config.save_pretrained(output)
    build_processor(AutoTokenizer.from_pretrained(run), model.config.vision_config.image_size).save_pretrained(output)
    size = sum(file.stat().st_size for file in output.iterdir())
    if size > LIMIT:
        raise ValueError(f"{output} takes {size:,} bytes, more than {LIMIT:,}")
    return size


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--num-beams", type=int, default=1)
    options = parser.parse_args(arguments)
    print(f"{package(options.run, options.output, options.num_beams):,} bytes in {options.output}")


if __name__ == "__main__":
    main()
