"""How well the tokenizer of mm-draw keeps pictures of a style that it never saw; bicubic and JPEG in the same table.

    python benchmarks/drawing_tokenizer.py            # Twemoji, on which its settings were chosen
    python benchmarks/drawing_tokenizer.py --test     # OpenMoji: once per release

Intervals are 95 %, bootstrap over pictures. The Frechet distance is of EfficientNet-Lite0's fifth stage, not of
Inception: it says which row is better, and nothing beside other papers. Codes in use: of the codebook, in this style.
"""

import argparse
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from drawing_features import Features
from PIL import Image

from mm import MMImageTokenizer
from mm.metrics import frechet_distance, psnr, ssim
from mm.recipes.draw_data import pixels
from mm.recipes.draw_tokenizer import reconstructed
from mm.recipes.emoji import DEV_VENDOR, TEST_VENDOR, load_items

FOLDER = Path("checkpoints/mm-draw/image_tokenizer")
RESAMPLES = 200  # of the Frechet distance


def bicubic(pictures: torch.Tensor) -> torch.Tensor:
    """Down to an eighth of the sides and up again."""
    small = F.interpolate(pictures, scale_factor=1 / 8, mode="bicubic", antialias=True)
    return F.interpolate(small, scale_factor=8, mode="bicubic").clamp(0, 1)


def jpeg(pictures: torch.Tensor, quality: int) -> tuple[torch.Tensor, float]:
    """(what JPEG keeps, the mean number of bits after its header)."""
    made, bits = [], []
    for picture in pictures:
        file = io.BytesIO()
        Image.fromarray((picture * 255).round().byte().permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
        held = file.getvalue()
        scan = held.index(b"\xff\xda")
        bits.append(8 * (len(held) - scan - 14))  # the scan's own header has 12 bytes, the end marker 2
        made.append(torch.from_numpy(np.array(Image.open(io.BytesIO(held)))).permute(2, 0, 1).float() / 255)
    return torch.stack(made), float(np.mean(bits))


def distance_interval(made: np.ndarray, true: np.ndarray) -> tuple[float, float, float]:
    """The Frechet distance of features, with an interval by bootstrap, whose bias is taken out."""
    generator, found, value = np.random.default_rng(0), [], frechet_distance(made, true)
    for _ in range(RESAMPLES):
        drawn = generator.integers(0, len(true), len(true))
        found.append(frechet_distance(made[drawn], true[drawn]))
    low, high = np.quantile(found, [0.025, 0.975]) - np.mean(found) + value
    return value, float(low), float(high)


def rows(model: MMImageTokenizer, items: torch.Tensor, features: Features) -> Iterator[str]:
    true = items.float() / 255
    made, ids = reconstructed(model, items)
    least, bits = jpeg(true, 1)
    table = {
        "MMImageTokenizer": (made, model.tokens_per_image * np.log2(model.codebook_size)),
        "bicubic, 8 x down and up": (bicubic(true), 64 * 3 * 8),
        "JPEG, quality 1": (least, bits),
    }
    wanted = features(true)["map"]
    yield f"{'':26}{'bits':>7}  {'PSNR, dB':24}{'SSIM':24}{'Frechet distance':24}"
    for name, (pictures, size) in table.items():
        cells = [score(pictures.numpy(), true.numpy()).interval() for score in (psnr, ssim)]
        cells.append(distance_interval(features(pictures)["map"], wanted))
        told = "".join(f"{f'{value:.3f} [{low:.3f}, {high:.3f}]':24}" for value, low, high in cells)
        yield f"{name:26}{size:>7.0f}  {told}".rstrip()
    used = len(ids.unique()) / model.codebook_size
    yield f"codes in use: {used:.3f} of {model.codebook_size}; {model.tokens_per_image} tokens a picture"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=FOLDER, help="the folder of the tokenizer")
    parser.add_argument("--test", action="store_true", help="measure on OpenMoji (only for a release)")
    options = parser.parse_args()
    vendor = TEST_VENDOR if options.test else DEV_VENDOR
    items = load_items([vendor])
    print(f"{len(items)} pictures of {vendor}, 64 x 64 pixels; the tokenizer never saw this style")
    model = MMImageTokenizer.from_pretrained(options.model).eval()
    print(*rows(model, pixels(items), Features()), sep="\n")


if __name__ == "__main__":
    main()
