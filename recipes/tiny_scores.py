"""What a model of `tiny.py` can do, on what training did not see: names in six languages, answers, search.

    python -m mm.recipes.tiny_scores runs/mm-tiny/model

Exact match of the names of Twemoji's drawings, known and new; accuracy on easy-VQA's test questions beside who knows
only the questions; recall of names for pictures among all 1594 and of pictures for names among the 1301. With 95 %
bootstrap intervals.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer

from ..evaluation.captions import bootstrap_interval, exact_match
from ..modeling_mm.tasks.generation import MMForConditionalGeneration
from ..modeling_mm.tasks.retrieval import MMForImageTextRetrieval
from .drawings import SIZE, normalised
from .easy_vqa import load_questions, question_only
from .emoji import DEV_VENDOR, EmojiItem, load_items, pictures, split_of
from .languages import LANGUAGES, names_by_language, token_of
from .package import build_image_processor
from .tiny import written
from .tiny_data import Questions, rows_of

BATCH = 64


def shown(name: str, right: np.ndarray) -> str:
    low, high = bootstrap_interval(right)
    return f"| {name} | {len(right)} | {right.mean():.3f} [{low:.3f}, {high:.3f}] |"


@torch.no_grad()
def answers(model, tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Whether each test question of easy-VQA is answered rightly, by the model and by its question alone."""
    questions = Questions(tokenizer, build_image_processor(SIZE), "test")
    train, test = load_questions("train"), load_questions("test")
    places: dict[str, list[tuple[int, str]]] = {}  # by question, so that the rows of a batch are of one length
    for place, asked in enumerate(questions.asked):
        for question, answer in asked:
            places.setdefault(question, []).append((place, answer))
    right = []
    for question, pairs in places.items():
        start = rows_of([question], tokenizer, [question])["input_ids"][:, :-1]
        for first in range(0, len(pairs), BATCH):
            part = pairs[first : first + BATCH]
            pixels = normalised(questions.pixels[[place for place, _ in part]].float() / 255)
            rows = start.expand(len(part), -1)
            ids = model.generate(pixel_values=pixels, input_ids=rows, max_new_tokens=4, do_sample=False)
            texts = tokenizer.batch_decode(ids[:, start.shape[1] :], skip_special_tokens=True)
            right += [text.strip() == answer for text, (_, answer) in zip(texts, part, strict=True)]
    return np.array(right, float), question_only(train, test)


@torch.no_grad()
def found(model, tokenizer, items: list[EmojiItem], names: list[str], place_of: dict[str, int]) -> list[str]:
    """Rows of the table: recall at 1 and 5 of names for pictures, and of pictures for names."""
    views = torch.from_numpy(pictures(items, SIZE, crop=True)).permute(0, 3, 1, 2)
    seen = torch.cat([model.encode_image(pixel_values=normalised(part.float() / 255)) for part in views.split(BATCH)])
    read = []
    for first in range(0, len(names), BATCH):
        rows = rows_of(names[first : first + BATCH], tokenizer, [""] * len(names[first : first + BATCH]))
        read.append(model.encode_text(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]))
    likeness = seen @ torch.cat(read).T  # (pictures, names)
    own = torch.tensor([place_of[item.concept] for item in items])
    told = likeness[torch.arange(len(items)), own]
    better = {
        "names for pictures": (likeness > told[:, None]).sum(1),
        "pictures for names": (likeness[:, own] > told[None]).sum(0),
    }
    return [
        shown(f"{kind}, R@{most}", (count < most).float().numpy()) for kind, count in better.items() for most in (1, 5)
    ]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    options = parser.parse_args(arguments)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = MMForConditionalGeneration.from_pretrained(options.model).eval()
    drawn = load_items([DEV_VENDOR])
    names = names_by_language(item.concept for item in drawn)
    lost = [name for texts in names.values() for name in texts.values() if back(tokenizer, name) != name]
    print(f"{sum(map(len, names.values()))} names in {len(names)} languages, {len(lost)} come back otherwise\n")
    print("| what | number | right, 95 % |\n|---|---|---|")
    for split in ("seen", "unseen_dev"):
        items = [item for item in drawn if split_of(item.concept) == split]
        for language in LANGUAGES:
            texts = written(model, tokenizer, items, token_of(language))
            right = exact_match(texts, [names[language][item.concept] for item in items]).per_item
            print(shown(f"{'known' if split == 'seen' else 'new'} names, {language}", right), flush=True)
    items = [item for item in drawn if split_of(item.concept) == "seen"]
    order = {item.concept: place for place, item in enumerate(drawn)}
    finder = MMForImageTextRetrieval.from_pretrained(options.model).eval()
    for row in found(finder, tokenizer, items, [names["en"][item.concept] for item in drawn], order):
        print(row, flush=True)
    right, alone = answers(model, tokenizer)
    print(shown("easy-VQA, test", right))
    print(shown("*by its question alone*", alone))


def back(tokenizer, text: str) -> str:
    return tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True)


if __name__ == "__main__":
    main()
