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

from ..modeling_mm.towers.image_tokenizer import MMImageTokenizer
from .draw_data import beginnings, drawing_items, pixels, tokenizer_items
from .draw_model import Rows, build_model, build_processor, in_parallel, names_tokenizer, package
from .draw_model import train as train_drawing
from .draw_tokenizer import codes_of, learn_white, reconstructed
from .draw_tokenizer import train as train_tokenizer
from .emoji import DEV_VENDOR, load_items, split_of

WHITE_FILE = "white.txt"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/mm-draw"))
    parser.add_argument("--tokens", type=int, default=256, choices=(64, 256), help="of a picture")
    parser.add_argument("--tokenizer-steps", type=int, default=4800)
    parser.add_argument("--white-steps", type=int, default=1000, help="in which its decoder learns one code for white")
    parser.add_argument("--steps", type=int, default=3600, help="of the drawing model; 0: only the tokenizer")
    parser.add_argument("--parallel-steps", type=int, default=0, help="then of a model that draws in parallel")
    parser.add_argument("--rate", type=float, default=2e-3, help="of the drawing model's learning, at its highest")
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    folders = [options.output / name for name in ("tokenizer", "drawing", "parallel")]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    picture, white = learned_tokenizer(options, folders[0])
    if not options.steps:
        return
    items, held, first = drawing_items(held=False), drawing_items(held=True), beginnings()
    file = options.output / "codes.pt"
    if not file.exists():
        torch.save([codes_of(picture, pixels(part), white) for part in (items, held, first)], file)
    codes, unseen, spelling = torch.load(file, weights_only=True)
    words = names_tokenizer([item.label for item in first], spelling, picture.codebook_size)
    processor = build_processor(words, picture)
    model = build_model(processor)
    print(f"{model.num_parameters():,} parameters, {len(items)} drawings, {len(held)} held out", flush=True)
    settings = argparse.Namespace(
        steps=options.steps, batch_size=8, rate=options.rate, save_every=200, resume=options.resume
    )
    rows = Rows(items, codes, processor, hidden=0.15), Rows(held, unseen, processor)
    train_drawing(model, rows[0], settings, folders[1], rows[1])
    other = in_parallel(model)
    print(f"{package(model, processor, options.output / 'model'):,} bytes in {options.output / 'model'}")
    if options.parallel_steps:
        settings.steps, settings.rate = options.parallel_steps, options.rate / 2
        rows = (Rows(part, one, processor, hidden=None) for part, one in ((items, codes), (held, unseen)))
        train_drawing(other, next(rows), settings, folders[2], next(rows))
        package(other, processor, options.output / "model-parallel")


def learned_tokenizer(options: argparse.Namespace, folder: Path) -> tuple[MMImageTokenizer, int]:
    """The tokenizer, trained, and its code of white; the log has PSNR and use of codes on every fourth drawing of
    DEV_VENDOR."""
    done = folder / WHITE_FILE
    if options.resume and done.exists():
        return MMImageTokenizer.from_pretrained(folder / "model").eval(), int(done.read_text())
    unseen = pixels([item for item in load_items([DEV_VENDOR]) if split_of(item.concept) != "unseen_test"][::4])

    def told(model, white: int | None = None) -> dict[str, float]:
        is_learning = model.training
        model.eval()
        made, ids = reconstructed(model, unseen)
        found = {"dev_psnr": psnr(made), "dev_use": round(len(ids.unique()) / model.codebook_size, 3)}
        if white is not None:
            ids = codes_of(model, unseen, white)
            found["dev_psnr_white"] = psnr(torch.cat([model.decode(part) for part in ids.split(64)]))
        model.train(is_learning)
        return found

    def psnr(made: torch.Tensor) -> float:
        errors = (made - unseen.float() / 255).square().mean((1, 2, 3))
        return round(-10 * errors.clamp(min=1e-10).log10().mean().item(), 2)

    settings = argparse.Namespace(
        tokens=options.tokens, steps=options.tokenizer_steps, batch_size=8, rate=1e-3, save_every=500,
        resume=options.resume, perceptual_weight=0.1, perceptual_from=0.5,
        adversarial_weight=0.0, adversarial_from=0.7,
    )  # fmt: skip
    known = pixels(tokenizer_items())
    model = train_tokenizer(known, settings, folder, told)
    settings.steps, settings.rate = options.white_steps, settings.rate / 2
    white = learn_white(model, known, settings, folder, told)
    model.save_pretrained(folder / "model")
    done.write_text(f"{white}\n")
    return model, white


if __name__ == "__main__":
    main()
