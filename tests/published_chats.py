"""What a user does with a converted model that chats: a step of Trainer, a question by pipeline or to `mm serve`, the
Hub and back."""

import io
import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

from comparing import close
from mm import MMDataCollator
from mm.serving.reading import Reader
from mm.serving.tower_cache import TowerCache

# Pushes the folder that it is given, reads the repository again and says what it writes there.
_HUB = """
import json, sys
import torch
import mm, transformers
from PIL import Image
folder, picture, chat = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
model = transformers.AutoModelForImageTextToText.from_pretrained(folder)
processor = transformers.AutoProcessor.from_pretrained(folder)
model.push_to_hub("tester/chats"), processor.push_to_hub("tester/chats")
pulled = transformers.AutoModelForImageTextToText.from_pretrained("tester/chats").eval()
again = transformers.AutoProcessor.from_pretrained("tester/chats")
own = model.state_dict()
same = all(torch.equal(value, own[name]) for name, value in pulled.state_dict().items())
asked = dict(add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt")
given = again.apply_chat_template([chat], **asked)
here = processor.apply_chat_template([chat], **asked)
same_inputs = given.keys() == here.keys() and all(torch.equal(given[name], here[name]) for name in here)
ids = pulled.generate(**given, max_new_tokens=3, do_sample=False)[0, given["input_ids"].shape[1]:]
print("ANSWER " + json.dumps([type(pulled).__name__, same, same_inputs, ids.tolist()]))
"""


def used(done: Any, hub: Any, folder: Path, picture: Image.Image, template: str) -> None:
    """Asserts that the three give what the model and its processor give by themselves."""
    model, processor = done.model.float().eval(), done.processor
    processor.chat_template = template
    path = folder / "asked.png"
    picture.save(path)
    words = [{"type": "image", "image": str(path)}, {"type": "text", "text": "what?"}]
    chat = [{"role": "user", "content": words}]
    learned(model, processor, picture, folder)
    done.save_pretrained(folder / "mm")
    asked: dict[str, Any] = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}
    given = processor.apply_chat_template([chat], return_tensors="pt", **asked)
    with torch.no_grad():
        ids = model.generate(**given, max_new_tokens=3, do_sample=False)[0, given["input_ids"].shape[1] :]
    pipe = transformers.pipeline("image-text-to-text", model=str(folder / "mm"))
    (told,) = pipe(chat, generate_kwargs={"max_new_tokens": 3, "do_sample": False}, return_full_text=False)
    written = told["generated_text"] if isinstance(told["generated_text"], str) else told["generated_text"][-1]
    wanted = processor.decode(ids, skip_special_tokens=True)
    assert written.strip() == wanted.strip()  # the pipeline keeps the space before the answer
    command = [sys.executable, "-W", "ignore", "-c", _HUB, str(folder / "mm"), str(path), json.dumps(chat)]
    home = folder / "home"
    home.mkdir()
    ran = subprocess.run(
        command,
        env={**os.environ, **hub.environment(home)},
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    lines = [line for line in ran.stdout.splitlines() if line.startswith("ANSWER ")]
    assert lines, ran.stderr[-3000:]
    answer = json.loads(lines[0].removeprefix("ANSWER "))
    assert answer == ["MMForConditionalGeneration", True, True, ids.tolist()]


def rows_alone(done: Any, place: str, words: Sequence[str] = ("what", "a b", "is it or?"), seed: int = 0) -> None:
    """Asserts that rows of no to four pictures, of other sizes and in other places, are in a batch what each is alone:
    logits in fp32 with padding on either side, and what is written.

    place: of a picture in a text; "": pictures stand before it.
    """
    chosen, rows = random.Random(seed), []
    for count in (2, 0, 4, 1, 3, 1):
        parts = [place + chosen.choice(["", *words]) for _ in range(count)]
        sizes = [(chosen.randint(6, 100), chosen.randint(6, 100)) for _ in range(count)]
        noise = np.random.default_rng(chosen.randint(0, 9))
        seen = [Image.fromarray(noise.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]
        rows.append((seen, " ".join([chosen.choice(words), *parts])))
    model, processor = done.model.float().eval(), done.processor
    alone = [processor(images=[seen] if seen else None, text=[text], return_tensors="pt") for seen, text in rows]
    batch: dict[str, Any] = {"images": [seen for seen, _ in rows], "text": [text for _, text in rows]}
    for side in ("right", "left"):
        given = processor(**batch, padding_side=side, return_tensors="pt")
        with torch.no_grad():
            logits = model(**given).logits
            for row, own in enumerate(alone):
                close(logits[row][given["attention_mask"][row].bool()], model(**own).logits[0])
    given = processor(**batch, return_tensors="pt")
    for search in ({}, {"num_beams": 3}, {"num_beams": 2, "cache_implementation": "static"}):
        search = {**search, "max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
        written = model.generate(**given, **search)
        for row, own in enumerate(alone):
            assert torch.equal(written[row, -5:], model.generate(**own, **search)[0, -5:]), (search, row)


def served(done: Any, pictures: list[Image.Image]) -> None:
    """Asserts that `mm serve` reads two pictures, each asked about, and both in a chat, so that the model writes what
    it writes of the processor's inputs: alone and, where their shapes are equal, together."""
    model, processor = done.model.float().eval(), done.processor
    files = []
    for picture in pictures:
        file = io.BytesIO()
        picture.save(file, "PNG")
        files.append(file.getvalue())
    cache = TowerCache(model.model) if processor.tiles is None else None
    reader, search = Reader(model, processor, cache), {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    reads, wanted = [], []
    for file, words in zip(files, ("what?", "or a cat"), strict=True):
        reads.append(reader.read([file], words))
        asked = processor.about("image", words)
        given = processor(images=[[file]], text=[asked.pop("text")], **asked, add_eos_token=False, return_tensors="pt")
        wanted.append(model.generate(**given, **search)[0, given["input_ids"].shape[1] :])
    if processor.chat_template is not None:
        blocks: list[dict[str, Any]] = [{"type": "image"}, {"type": "text", "text": "or"}, {"type": "image"}]
        reads.append(reader.chat(files, [{"role": "user", "content": blocks}]))
        sources = iter(files)
        blocks = [{**block, "image": next(sources)} if block["type"] == "image" else block for block in blocks]
        given = processor.apply_chat_template(
            [{"role": "user", "content": blocks}], add_generation_prompt=True, tokenize=True, return_dict=True,
            return_tensors="pt",
        )  # fmt: skip
        wanted.append(model.generate(**given, **search)[0, given["input_ids"].shape[1] :])
    batches = [[0, 1]] if reads[0].shape == reads[1].shape else []
    for numbers in [*batches, *([number] for number in range(len(reads)))]:
        with torch.no_grad():
            found = model.generate(**reader.inputs([reads[number] for number in numbers]), **search)
        assert all(torch.equal(row[-4:], wanted[number]) for row, number in zip(found, numbers, strict=True))


def learned(model: Any, processor: Any, picture: Image.Image, folder: Path) -> None:
    """Two steps of Trainer on one chat; the loss falls."""
    blocks = [{"type": "image"}, {"type": "text", "text": "what?"}]
    answer = {"role": "assistant", "content": [{"type": "text", "text": "a cat"}]}
    samples = [{"images": [picture], "chat": [{"role": "user", "content": blocks}, answer]}] * 2
    arguments = transformers.TrainingArguments(
        str(folder / "run"), max_steps=3, per_device_train_batch_size=2, learning_rate=1e-3, report_to=[],
        remove_unused_columns=False, use_cpu=True, save_strategy="no", logging_steps=1, disable_tqdm=True,
    )  # fmt: skip
    trainer = transformers.Trainer(
        model,
        arguments,
        data_collator=MMDataCollator(processor),
        train_dataset=samples,  # pyright: ignore[reportArgumentType]: a list serves
    )
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses[-1] < losses[0]
    model.eval()
