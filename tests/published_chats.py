"""What a user does with a converted model that chats: a step of Trainer, a question by pipeline, the Hub and back."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image

from mm import MMDataCollator

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
