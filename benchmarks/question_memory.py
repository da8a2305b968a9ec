"""What N questions about one picture take in memory, of a LLaVA with 576 picture tokens, beside Transformers.

    python benchmarks/question_memory.py --threads 2 --log benchmarks/logs/question_memory.txt

The same random weights and fp32 for both, questions of 24 tokens and answers of 8, a process for each number. keys and
values: what the cache holds at the end, by its tensors. peak: the most that generate() holds above what was there
before. The answers must be equal, and the keys and values of MM must grow by those of the questions and answers
alone. With --log the two are drawn into docs/question_memory.svg.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import harness
import torch
import transformers

import mm

COUNTS, TOKENS, ASKED, WRITTEN, IMAGE = (1, 2, 4, 8, 16, 32), 576, 24, 8, 999
LIBRARIES = ("MM", "Transformers")
TEXT = {
    "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8,
    "vocab_size": 1000, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 1024,
}  # fmt: skip
VISION = {
    "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 384,
    "patch_size": 16,
}  # fmt: skip
PLOT = Path(__file__).resolve().parents[1] / "docs" / "question_memory.svg"


def save_source(folder: Path) -> None:
    torch.manual_seed(0)
    config = transformers.LlavaConfig(
        vision_config=transformers.SiglipVisionConfig(**VISION), text_config=transformers.LlamaConfig(**TEXT),
        image_token_index=IMAGE, vision_feature_select_strategy="full",
    )  # fmt: skip
    transformers.LlavaForConditionalGeneration(config).save_pretrained(folder)


def cached(held_object: Any, found: dict[int, int]) -> dict[int, int]:
    """{place: bytes} of every tensor of keys or values that a cache holds, however deep."""
    if torch.is_tensor(held_object):
        if held_object.is_floating_point() and held_object.ndim == 4:
            storage = held_object.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    elif isinstance(held_object, dict):
        for value in held_object.values():
            cached(value, found)
    elif isinstance(held_object, (list, tuple)):
        for value in held_object:
            cached(value, found)
    elif type(held_object).__module__.startswith(("mm.", "transformers.cache_utils")):
        cached(vars(held_object), found)
    return found


@torch.no_grad()
@torch.no_grad()
def measure(folder: Path, library: str, count: int) -> list[int]:
    """Bytes of the cache and of the peak, and the ids of all answers."""
    theirs = transformers.LlavaForConditionalGeneration
    model: Any = (mm.convert(folder).model if library == "MM" else theirs.from_pretrained(folder)).eval()
    generator = torch.Generator().manual_seed(1)
    asked = torch.randint(3, IMAGE, (count, ASKED), generator=generator)
    ids = torch.cat([torch.tensor([[1] + [IMAGE] * TOKENS]).expand(count, -1), asked], dim=1)
    pixels = torch.randn(1, 3, VISION["image_size"], VISION["image_size"], generator=generator)
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if library == "MM":
        given |= {"pixel_values": pixels, "context_index": torch.zeros(count, dtype=torch.long)}
    else:
        given["pixel_values"] = pixels.expand(count, -1, -1, -1)
    settings = {"max_new_tokens": WRITTEN, "do_sample": False, "eos_token_id": None, "suppress_tokens": [IMAGE]}
    model.generate(**{name: value[:1] for name, value in given.items()}, **settings)  # what a first call makes
    harness.settled()
    with harness.Peak() as peak:
        out = model.generate(**given, **settings, return_dict_in_generate=True)
    kept = sum(cached(out.past_key_values, {}).values())
    return [kept, peak.held, *out.sequences[:, -WRITTEN:].flatten().tolist()]


def plot(rows: list[dict[str, Any]]) -> None:
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    rcParams["svg.hashsalt"] = "question_memory"
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    for place, (what, title) in enumerate((("cache", "keys and values"), ("peak", "peak of generate()"))):
        axes = figure.add_subplot(1, 2, place + 1)
        for library in LIBRARIES:
            axes.plot(COUNTS, [row[library][what] for row in rows], marker="o", label=library)
        axes.set(title=title, xlabel="questions about one picture", ylabel="MiB", ylim=(0, None))
        axes.legend()
    figure.savefig(PLOT, metadata={"Date": None})


def main(arguments: list[str] | None = None) -> int:
    parser = harness.options(__doc__)
    parser.add_argument("--one", nargs=3, metavar=("FOLDER", "LIBRARY", "COUNT"))
    asked = parser.parse_args(arguments)
    if asked.one:
        print(*measure(Path(asked.one[0]), asked.one[1], int(asked.one[2])))
        return 0
    report = harness.Report(asked)
    report.say("questions   keys and values: MM, Transformers   peak of generate(): MM, Transformers   (MiB)")
    with tempfile.TemporaryDirectory() as folder:
        save_source(Path(folder))
        for count in COUNTS[:2] if asked.tiny else COUNTS:
            found = {one: harness.alone(__file__, "--one", folder, one, str(count)) for one in LIBRARIES}
            answers = [torch.tensor(found[one][2:]) for one in LIBRARIES]
            report.equal(f"answers to {count} questions", *answers)
            sizes = {
                one: dict(zip(("cache", "peak"), (n / 2**20 for n in found[one][:2]), strict=True)) for one in found
            }
            report.row(questions=count, **sizes)
            columns = [sizes[one][what] for what in ("cache", "peak") for one in LIBRARIES]
            report.say(f"{count:<10}" + "".join(f"{size:12.1f}" for size in columns))
    own = 2 * TEXT["num_hidden_layers"] * TEXT["hidden_size"] * 4 * (ASKED + WRITTEN) / 2**20
    first, last = report.rows[0], report.rows[-1]
    grown = (last["MM"]["cache"] - first["MM"]["cache"]) / (last["questions"] - first["questions"])
    report.say(f"a question more: {grown:.2f} MiB of keys and values; its {ASKED + WRITTEN} tokens have {own:.2f}")
    report.want("keys and values of a question against what it adds", own / grown, 0.99)
    if asked.log and not asked.tiny:
        plot(report.rows)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
