"""Parts of the package beside the plain way to the same result: products, a loss, maps, ranked answers, drawing.

python benchmarks/parts.py --threads 1 --log benchmarks/logs/parts.txt
python benchmarks/parts.py ranking trie           # some groups

linear    a linear layer by oneDNN (mm.use_onednn) and by torch's own product, fp32; weights take turns, so that
          none is in a cache from the turn before; training is the product and its two gradients
loss      the loss over a vocabulary without logits and with them, forward and backward, 1024 positions
explain   model.explain and the generate() that it explains: BLIP-base at 384 px, 5 beams, 20 tokens
ranking   rank_answers over 128 answers to a question of 8 tokens, and `score` of one pair of question and answer
          at a time: on a context that is encoded once, and from the picture each time
trie      rank_answers of mm-tiny with and without a prefix trie, over names of emoji (needs `make data`)
drawing   draw() of 4 pictures of 64 codes with guidance, with a cache and without one; and in 8 parallel steps
          against the cache, of models of width 384 and 6 layers (what they draw is not compared)
recall    metrics of retrieval of 5,000 pictures and 25,000 captions, and the plain product of their vectors
"""

import random
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import harness
import numpy as np
import torch
from harness import Report, Row
from peers import blip, pictures, search, sizes_of
from torch import nn
from torch.nn.functional import linear as product

import mm
from mm.modeling_mm.core.linear import linear as linear_layer
from mm.modeling_mm.losses.token_losses import chunked_cross_entropy, token_loss

TINY = "checkpoints/mm-tiny"
SIZES = [(768, 768), (768, 3072), (3072, 768), (768, 50_257)]  # width, outputs
ROWS = [1, 4, 16, 40, 197, 788, 2304]
WEIGHTS = 1 << 26  # numbers in all weights of a size: 256 MiB
VOCABULARIES = (30_522, 250_002)  # BERT's and XLM-R's
CANDIDATES, LONGEST, PROMPT = 128, 6, 8


def linear(report: Report) -> Iterator[Row]:
    def passes(onednn: bool, trains: bool) -> torch.Tensor:
        mm.use_onednn(onednn)
        with torch.set_grad_enabled(trains):
            for layer in layers:
                output = linear_layer(layer, states)
                if trains:
                    layer.zero_grad()
                    output.backward(output.detach())
        mm.use_onednn(None)
        return output.detach()

    tiny = report.asked.tiny
    for width, outputs in SIZES[:2] if tiny else SIZES:
        layers = [nn.Linear(width, outputs) for _ in range(1 if tiny else max(1, WEIGHTS // (width * outputs)))]
        for rows in ROWS[:3] if tiny else ROWS:
            states = torch.randn(rows, width, requires_grad=True)
            for trains in (False, True):
                name = f"{rows} x {width} to {outputs}{', training' if trains else ''}"
                ours, other = (partial(passes, onednn, trains) for onednn in (True, False))
                yield Row(name, ours, other, atol=1e-4, against="torch's product")


def loss_inputs(vocabulary: int, positions: int = 1024) -> list[torch.Tensor]:
    """hidden (N, 768), weight (V, 768), bias (V,) with gradients; targets (N,)."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(positions, 768), torch.randn(vocabulary, 768).mul_(0.02)
    leaves = [x.requires_grad_() for x in (hidden, weight, torch.zeros(vocabulary))]
    return [*leaves, torch.randint(0, vocabulary, (positions,))]


def loss_step(way: str, given: list[torch.Tensor]) -> torch.Tensor:
    """way: "full" or "chunked"."""
    hidden, weight, bias, targets = given
    for leaf in given[:3]:
        leaf.grad = None
    if way == "full":
        found = token_loss(product(hidden, weight, bias), targets)
    else:
        found = chunked_cross_entropy(hidden, weight, targets, bias)
    found.backward()
    return found.detach()


def loss(report: Report) -> Iterator[Row]:
    for vocabulary in (3_000,) if report.asked.tiny else VOCABULARIES:
        ours, other = (partial(loss_step, way, loss_inputs(vocabulary)) for way in ("chunked", "full"))
        yield Row(f"loss over {vocabulary:,} words", ours, other, 1.0, 1e-5, "with logits", of="cpu")


def explain(report: Report) -> Iterator[Row]:
    _, model, size = blip(sizes_of(report))
    inputs = {"pixel_values": pictures(1, size)[:, None]}
    generate = partial(model.generate, **inputs, **search(5), return_dict_in_generate=True)
    made = generate()
    with torch.no_grad():
        eager = model(**inputs, input_ids=made.sequences[:, :-1], output_attentions=True).cross_attentions
    expected = torch.stack(eager).mean((0, 2))[0, :, 1:]  # without CLS
    for name, given, wanted in (("explain", made, 4.0), ("explain, given ids", made.sequences, 0.0)):
        (found,) = model.explain(inputs, given)
        report.equal(name, torch.from_numpy(found.items[0].weights).flatten(1), expected, atol=1e-5)
        ours = partial(model.explain, inputs, given)
        yield Row(name, ours, generate, wanted, None, "generate()", of="cpu")


def ranking(report: Report) -> Iterator[Row]:
    tiny = report.asked.tiny
    width, layers, size = (64, 2, 64) if tiny else (384, 6, 224)
    stack = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
    stack["num_attention_heads"] = 2 if tiny else 6
    ends = {"vocab_size": 1000 if tiny else 30522, "bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(0)
    model: Any = mm.MMForConditionalGeneration(
        mm.MMConfig(
            vision_config={**stack, "image_size": size}, text_config={**stack, **ends}, initializer_range=0.05
        )  # fmt: skip
    ).eval()
    picture = torch.randn(1, 3, size, size)
    prompt = torch.randint(3, ends["vocab_size"], (1, PROMPT))
    answers = torch.randint(3, ends["vocab_size"], (CANDIDATES, LONGEST))
    lengths = torch.randint(1, LONGEST + 1, (CANDIDATES,))

    @torch.no_grad()
    def ranked() -> torch.Tensor:
        mask = torch.arange(LONGEST) < lengths[:, None]
        return model.rank_answers(answers, mask, input_ids=prompt, pixel_values=picture).scores[0]

    @torch.no_grad()
    def pairs(encodes_once: bool) -> torch.Tensor:
        context = {"encoder_outputs": model.encode_context(picture)} if encodes_once else {"pixel_values": picture}
        found = []
        for answer, length in zip(answers, lengths.tolist(), strict=True):
            ids = torch.cat([prompt, answer[None, :length]], dim=1)
            labels = ids.clone()
            labels[:, :PROMPT] = -100
            output = model.score(ids, labels=labels, **context)
            found.append(output.scores[0] / output.lengths[0])
        return torch.stack(found)

    yield Row("rank_answers, 128 answers", ranked, partial(pairs, True), 5.0, 1e-5, "a pair at a time")
    yield Row("rank_answers, 128 answers", ranked, partial(pairs, False), 5.0, 1e-5, "the same from pixels")


def trie(report: Report) -> Iterator[Row]:
    from mm.recipes.emoji import DEV_VENDOR, load_items

    model: Any = mm.MMForConditionalGeneration.from_pretrained(TINY).eval()
    tokenizer = mm.MMProcessor.from_pretrained(TINY).tokenizer
    names, draw = [item.label for item in load_items([DEV_VENDOR])], random.Random(0)
    colours = "red orange yellow green blue purple brown black white gray pink large small".split()
    two = draw.sample([f"{colour} {name}" for colour in colours for name in names], 3000)
    side = model.config.vision_config.image_size
    context = model.encode_context(pixel_values=pictures(1, side))

    def scores(prefix_trie: bool, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        settings = {"normalize": "sum", "batch_size": 512, "prefix_trie": prefix_trie}
        return model.rank_answers(ids, mask, encoder_outputs=context, **settings).scores

    lists = {"128 names": draw.sample(names, 128), "1594 names": names, "3000 names of two words and more": two}
    for title, answers in lists.items():
        rows = tokenizer(answers[:64] if report.asked.tiny else answers, padding=True, return_tensors="pt")
        given = {"ids": rows.input_ids[:, 1:], "mask": rows.attention_mask[:, 1:]}
        ours, other = (partial(scores, way, **given) for way in (True, False))
        yield Row(f"prefix trie, {title}", ours, other, 0.0, 1e-4, "without", of="cpu")


def drawing(report: Report) -> Iterator[Row]:
    tiny = report.asked.tiny
    width, layers = (64, 2) if tiny else (384, 6)
    stack = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
    stack |= {"num_attention_heads": 2 if tiny else 6, "bos_token_id": 1, "eos_token_id": 2}
    context = {"context_input_ids": torch.randint(3, 1000, (4, 8))}
    side = 4 if tiny else 8
    places = {"first_id": 1003, "codebook_size": 1000, "begin_id": 1000, "end_id": 1001, "mask_id": 1002}
    models: dict[bool, Any] = {}
    for is_causal, cls in ((True, mm.MMForConditionalGeneration), (False, mm.MMForMaskedLM)):
        torch.manual_seed(0)
        text = {**stack, "vocab_size": 2003, "is_causal": is_causal}
        config = mm.MMConfig(
            modalities=[], text_config=text, text_encoder_config={**stack, "vocab_size": 1000},
            drawing={**places, "grid": [side, side]}, initializer_range=0.05,
        )  # fmt: skip
        models[is_causal] = cls(config).eval()
    given = {**context, "guidance_scale": 3.0, "do_sample": False}
    cached = partial(models[True].draw, **given)
    work = f"4 pictures of {side * side} codes"
    yield Row(f"draw, {work}", cached, partial(cached, use_cache=False), 0 if tiny else 4.0, None, "no cache")
    yield Row(f"draw in 8 steps, {work}", partial(models[False].draw, **given), cached, 0, None, "the cache")


def recall(report: Report) -> Iterator[Row]:
    from mm.metrics import retrieval_scores, similarity_scores

    count, rng = (300 if report.asked.tiny else 5000), np.random.default_rng(0)
    images, noise = (rng.standard_normal((rows, 256)).astype(np.float32) for rows in (count, 5 * count))
    owner = np.repeat(np.arange(count), 5)
    images, texts = (
        side / np.linalg.norm(side, axis=1, keepdims=True) for side in (images, 0.1 * images[owner] + noise)
    )
    few = np.arange(5 * 200)
    whole = images[:200].astype(np.float64) @ texts[few].T.astype(np.float64)
    sides = retrieval_scores(images[:200], texts[few], owner[few]), similarity_scores(whole, owner[few])
    values = [torch.tensor([one.value for one in found.values()]).double() for found in sides]
    report.equal("metrics of 200 pictures, by blocks and of the whole matrix in fp64", *values, 1e-4)

    def matrix() -> np.ndarray:
        return images @ texts.T

    for ways, most in ((("t2i",), 1.5), (("i2t",), 1.5), (("t2i", "i2t"), 2.0)):
        ours = partial(retrieval_scores, images, texts, owner, ways=ways)
        yield Row(f"recall, {' and '.join(ways)}", ours, matrix, 1 / most, None, "the product", of="cpu")
    held = {name: harness.peak_of(way) / 2**20 for name, way in (("metrics", ours), ("matrix", matrix))}
    report.say(f"  memory of the metrics {held['metrics']:.0f} MiB, of the product {held['matrix']:.0f} MiB")
    report.row(what="memory of recall", **held)
    report.want("memory of the whole matrix against that of the metrics", held["matrix"] / max(held["metrics"], 1), 2)


GROUPS: dict[str, harness.Group] = {
    "linear": linear, "loss": loss, "explain": explain, "ranking": ranking, "trie": trie, "drawing": drawing,
    "recall": recall,
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    return harness.table(harness.options(__doc__), GROUPS, arguments)


if __name__ == "__main__":
    sys.exit(main())
