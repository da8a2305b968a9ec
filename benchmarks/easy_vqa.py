"""easy-VQA from scratch: by a classifier, and by ranking the thirteen answers with a decoder.

    python benchmarks/easy_vqa.py               # trains what the log lacks, then prints the table
    python benchmarks/easy_vqa.py --table       # only the table, from the log

Both systems have the same small convolutional tower and the same text stack, see the same batches, and start from
random weights. All questions about a picture are rows of one context, so that a picture runs through the tower once.
The classifier has a class per answer; the decoder reads the question as its prompt, writes the answer and eos, and is
scored by `rank_answers` over the thirteen answers. A run (a system and a seed) that is in the log is not trained
again, so an interrupted benchmark goes on where it stopped. Intervals are 95 % bootstraps over questions.
"""

import sys
from collections.abc import Iterator
from typing import Any

import experiments
import numpy as np
import torch
from experiments import mean_hits, score

from mm import MMConfig, MMForConditionalGeneration, MMForSequenceClassification
from mm.recipes.easy_vqa import BOS, EOS, PAD, SIZE, Questions, Words, load_questions, question_only

SYSTEMS = ("classifier", "rank_answers")
SEEDS, EPOCHS, PICTURES, RATE = (0,), 14, 64, 2e-3
WANTED = 0.90


class Data:
    """Both splits as ids."""

    def __init__(self):
        self.train, self.test = load_questions("train"), load_questions("test")
        self.words = Words(self.train)

    def batch(self, split: Questions, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        """All questions about some pictures, and the numbers of their answers as `classes`."""
        place = torch.full((len(split.pixels),), -1)
        place[pictures] = torch.arange(len(pictures))
        chosen = torch.nonzero(place[split.index] >= 0)[:, 0]
        ids, mask = self.words.questions([split.texts[i] for i in chosen.tolist()])
        return {
            "input_ids": ids, "attention_mask": mask, "context_index": place[split.index[chosen]],
            "pixel_values": split.pixels[pictures],
            "classes": self.words.classes([split.answers[i] for i in chosen.tolist()]),
        }  # fmt: skip


def build(system: str, words: Words, seed: int) -> Any:
    torch.manual_seed(seed)
    vision = {
        "model_type": "mm_conv", "image_size": SIZE, "stem": {"channels": 16, "kernel_size": 3, "stride": 2},
        "stages": [{"block": "residual", "channels": width, "stride": 2} for width in (32, 48, 64)],
        "frozen_batch_norm": False,
    }  # fmt: skip
    text = {
        "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
        "norm_position": "pre", "embedding_norm": False, "final_norm": "all", "vocab_size": words.size,
        "max_position_embeddings": 16, "bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD,
        "initializer_range": 0.1, "is_causal": system == "rank_answers", "pooler": "mean",
    }  # fmt: skip
    config = MMConfig(
        vision_config=vision, text_config=text, projector_type="linear_norm", num_labels=len(words.answers)
    )
    return (MMForConditionalGeneration if system == "rank_answers" else MMForSequenceClassification)(config)


def loss_of(system: str, model: Any, batch: dict[str, torch.Tensor], words: Words) -> torch.Tensor:
    classes = batch.pop("classes")
    if system == "classifier":
        return model(**batch, labels=classes).loss
    answers = words.candidates()[classes]  # (R, 2), written after each question, with or without padding between them
    ids = torch.cat([batch["input_ids"], answers], dim=1)
    mask = torch.cat([batch["attention_mask"], torch.ones_like(answers)], dim=1)
    shift = torch.argsort(1 - mask, dim=1, stable=True)  # real tokens first
    ids, mask = ids.gather(1, shift), mask.gather(1, shift)
    asked = batch["attention_mask"].sum(1, keepdim=True)
    labels = ids.masked_fill((torch.arange(ids.shape[1]) < asked) | (mask == 0), -100)
    return model(**{**batch, "input_ids": ids, "attention_mask": mask}, labels=labels).loss


def train(system: str, data: Data, seed: int) -> Any:
    model = build(system, data.words, seed)

    def loss(_: int, pictures: torch.Tensor) -> torch.Tensor:
        return loss_of(system, model, data.batch(data.train, pictures), data.words)

    return experiments.fit(model, loss, len(data.train.pixels), EPOCHS, PICTURES, RATE, seed, warm=0.2)


@torch.no_grad()
def right(system: str, model: Any, data: Data) -> str:
    """A 1 for each test question that is answered right, else a 0."""
    hits = []
    for pictures in torch.arange(len(data.test.pixels)).split(PICTURES):
        batch = data.batch(data.test, pictures)
        classes = batch.pop("classes")
        if system == "classifier":
            found = model(**batch).logits.argmax(-1)
        else:
            found = model.rank_answers(data.words.candidates(), **batch, batch_size=2048).indices[:, 0]
        hits.append(found == classes)
    return experiments.marks(torch.cat(hits))


def table(lines: list[dict[str, Any]], train_set: Questions, test: Questions) -> Iterator[str]:
    """Accuracy over all questions, those answered by yes or no, and the others; of each the mean over the seeds."""
    closed = np.array([answer in ("yes", "no") for answer in test.answers])
    yield f"{'':<22}{'all':<23}{'yes or no':<23}{'other':<23}{'parameters':>11}{'CPU min':>9}"
    hits = {"question alone": question_only(train_set, test)}
    hits |= {name: mean_hits(lines, name) for name in SYSTEMS}
    for name, of_all in hits.items():
        own = [line for line in lines if line["system"] == name]
        cost = f"{own[0]['trained']:>11,}{np.mean([line['cpu_minutes'] for line in own]):>9.1f}" if own else ""
        yield f"{name:<22}{score(of_all):<23}{score(of_all[closed]):<23}{score(of_all[~closed]):<23}{cost}"
    reached = all(hits[name].mean() >= WANTED for name in SYSTEMS)
    yield f"\n{'both reach' if reached else 'NOT AS WANTED: both should reach'} {WANTED:.2f}"


def main(arguments: list[str] | None = None) -> int:
    asked = experiments.options(__doc__, "easy_vqa.jsonl").parse_args(arguments)
    torch.set_num_threads(1)
    data = Data()
    if not asked.table:
        experiments.run(
            asked.log, SYSTEMS, SEEDS, lambda system, seed: train(system, data, seed),
            lambda system, model: {"right": right(system, model, data)},
        )  # fmt: skip
    told = f"easy-VQA, {len(data.test.texts)} test questions; {len(SEEDS)} seed of {EPOCHS} epochs"
    experiments.say(told, table(experiments.read(asked.log), data.train, data.test))
    return 0


if __name__ == "__main__":
    sys.exit(main())
