"""Teaches mm-tiny the names of your own pictures, some sixty of them in a few minutes of one CPU core, by `mm.train`.

    python examples/own_pictures.py names.jsonl --output runs/own

Each line of names.jsonl is a picture with its name, paths from the file's folder: {"image": "rocket.png", "caption":
"saturn five"}. The image tower is frozen and looks at each picture once; the decoder learns. Every fifth picture, as a
hash of what it holds chooses, is held out: how many of these it names is told at the end, and what it says of each is
in report.html. What to freeze, which rate and how many epochs was measured: docs/fine-tuning.md.
"""

import argparse
import sys
from pathlib import Path

import mm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", type=Path, help="JSON Lines, or another table that mm train reads")
    parser.add_argument("--output", type=Path, default=Path("runs/own"))
    parser.add_argument("--model", default=None, help="a folder or Hub id to start from; none: mm-tiny")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--held-out", type=float, default=0.2, help="share of the pictures that are not learned from")
    options = parser.parse_args()
    result = mm.train(
        "caption",
        model=options.model,
        data=str(options.names),
        output=str(options.output),
        eval_share=options.held_out,
        freeze="vision",
        feature_cache=str(options.output / "features"),
        num_train_epochs=options.epochs,
        learning_rate=options.learning_rate,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    shown = [f"{name}: {value:.3f}" for name, value in result.metrics.items() if name.startswith("eval_exact_match")]
    sys.stdout.write("\n".join([*shown, f"mm caption PICTURES --model {options.output}"]) + "\n")


if __name__ == "__main__":
    main()
