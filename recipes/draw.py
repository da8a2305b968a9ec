"""The training recipe of checkpoints/mm-draw: from a name and a style word to an emoji of 64 x 64 pixels.

    python -m mm.recipes.draw --output runs/mm-draw             # tokenizer, codes, drawing model
    python -m mm.recipes.draw --output runs/mm-draw --resume    # resumes after an interruption
    python -m mm.recipes.draw --output runs/fine --tokens 256 --tokenizer-steps 4800 --steps 0    # a finer tokenizer

First the tokenizer learns to write a picture as codes and back, then all pictures become codes, once, then the drawing
model learns to write them from prompts such as "red apple, twemoji". `benchmarks/drawing.py` measures both.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F

from .draw_data import STYLES, drawing_items, pixels, tokenizer_items
from .draw_model import Rows, build_model, build_processor, package
from .draw_model import train as train_drawing
from .draw_tokenizer import reconstructed
from .draw_tokenizer import train as train_tokenizer
from .emoji import DEV_VENDOR, load_items, split_of
from .sources import minilm_directory
from .vocabulary import pruned_tokenizer

MOVES = ((0, 0), (1, -2), (-2, 1), (2, 2))  # pixels down and right; each picture is learned in these places


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/mm-draw"))
    parser.add_argument("--tokens", type=int, default=64, choices=(64, 256), help="of a picture")
    parser.add_argument("--tokenizer-steps", type=int, default=3200)
    parser.add_argument("--steps", type=int, default=3600, help="of the drawing model; 0: only the tokenizer")
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    folders = options.output / "tokenizer", options.output / "drawing"
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    picture = learned_tokenizer(options, folders[0])
    if not options.steps:
        return
    items, held = drawing_items(held=False), drawing_items(held=True)
    words = pruned_tokenizer(minilm_directory() / "vocab.txt", prompts_to_split())
    processor = build_processor(words, picture)
    seen, unseen = pixels(items), pixels(held)
    file = options.output / "codes.pt"
    if not file.exists():
        torch.save(torch.stack([reconstructed(picture, moved(seen, *way))[1] for way in MOVES]), file)
    train = Rows(items, torch.load(file, weights_only=True), processor, hidden=0.15)
    other = Rows(held, reconstructed(picture, unseen)[1][None], processor)
    model = build_model(processor)
    print(f"{model.num_parameters():,} parameters, {len(items)} drawings, {len(held)} held out", flush=True)
    settings = argparse.Namespace(
        steps=options.steps, batch_size=16, rate=1.2e-3, save_every=200, resume=options.resume
    )
    train_drawing(model, train, settings, folders[1], other)
    print(f"{package(model, processor, options.output / 'model'):,} bytes in {options.output / 'model'}")


def learned_tokenizer(options: argparse.Namespace, folder: Path):
    """The tokenizer, trained; its log has PSNR and use of codes on every fourth drawing of DEV_VENDOR."""
    unseen = pixels([item for item in load_items([DEV_VENDOR]) if split_of(item.concept) != "unseen_test"][::4])

    def told(model) -> dict[str, float]:
        model.eval()
        made, ids = reconstructed(model, unseen)
        model.train()
        errors = (made - unseen.float() / 255).square().mean((1, 2, 3))
        psnr = -10 * errors.clamp(min=1e-10).log10().mean().item()
        return {"dev_psnr": round(psnr, 2), "dev_use": round(len(ids.unique()) / model.codebook_size, 3)}

    settings = argparse.Namespace(
        tokens=options.tokens, steps=options.tokenizer_steps, batch_size=8, rate=1e-3, save_every=500,
        resume=options.resume, perceptual_weight=0.1, perceptual_from=0.5,
        adversarial_weight=0.0, adversarial_from=0.7,
    )  # fmt: skip
    model = train_tokenizer(pixels(tokenizer_items()), settings, folder, told)
    model.save_pretrained(folder / "model")
    return model


def moved(pictures: torch.Tensor, down: int, right: int) -> torch.Tensor:
    """uint8 (n, 3, H, W), moved by so many pixels; what comes in is white."""
    height, width = pictures.shape[2:]
    padded = F.pad(pictures, [2, 2, 2, 2], value=255)
    return padded[:, :, 2 - down : 2 - down + height, 2 - right : 2 - right + width]


def prompts_to_split() -> list[str]:
    """Every name, and the style words."""
    return [item.label for item in load_items([DEV_VENDOR])] + [", " + word for word in STYLES]


if __name__ == "__main__":
    main()
