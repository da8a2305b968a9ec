"""Tasks on the heads: captions under the standard logits processors, a prompt per task, classes that are rare."""

# Fixtures build models whose types pyright cannot follow.

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.testing import assert_close
from transformers import LogitsProcessor, LogitsProcessorList, Trainer, TrainingArguments

from mm import MMForSequenceClassification

INDEX = torch.tensor([1, 0, 1])
PROMPTS = torch.tensor([[1, 5, 6], [1, 7, 8], [1, 9, 3]])
SEARCHES = {"greedy": {}, "beams": {"num_beams": 3}, "sampling": {"do_sample": True, "num_return_sequences": 2}}


@pytest.fixture
def call(tiny_model):
    """A model and three prompts over two pictures."""
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.manual_seed(0)
    given = {"input_ids": PROMPTS, "pixel_values": pixels, "context_index": INDEX}
    return tiny_model(), given


def written(ids: torch.Tensor) -> torch.Tensor:
    return ids[:, PROMPTS.shape[1] :]


@pytest.mark.parametrize("search", SEARCHES)
def test_words_that_are_banned_are_not_written_and_others_are(call, search):
    model, given = call
    free = written(model.generate(**given, **SEARCHES[search], min_new_tokens=6, max_new_tokens=6))
    banned = sorted(set(free.flatten().tolist()))
    held = written(
        model.generate(
            **given, **SEARCHES[search], min_new_tokens=6, max_new_tokens=6, bad_words_ids=[[word] for word in banned]
        )
    )
    assert not set(held.flatten().tolist()) & set(banned)


@pytest.mark.parametrize("search", SEARCHES)
def test_lengths_and_repeats_are_held(call, search):
    model, given = call
    settings = {"min_new_tokens": 5, "max_new_tokens": 7, "no_repeat_ngram_size": 1}
    for row in written(model.generate(**given, **SEARCHES[search], **settings)).tolist():
        words = [word for word in row if word != 0]
        assert len(words) >= 5 and len(set(words)) == len(words)


def test_a_processor_sees_a_line_of_scores_for_every_row_and_beam(call):
    model, given = call
    seen = []

    class Watching(LogitsProcessor):
        def __call__(self, input_ids, scores):
            seen.append((tuple(input_ids.shape), tuple(scores.shape)))
            return scores

    model.generate(
        **given, num_beams=2, min_new_tokens=2, max_new_tokens=2, logits_processor=LogitsProcessorList([Watching()])
    )
    assert seen == [((6, 3), (6, 50)), ((6, 4), (6, 50))]


def test_beams_over_a_closed_list_find_what_rank_answers_ranks_first(call):
    """As many beams as answers keep them all, so the constrained search is exact: two ways to one answer."""
    model, given = call
    answers = [[11, 12, 2], [11, 13, 2], [14, 2], [15, 16, 17, 2], [18, 12, 2]]

    def allowed(row: int, ids: torch.Tensor) -> list[int]:
        so_far = ids[PROMPTS.shape[1] :].tolist()
        following = [answer[len(so_far)] for answer in answers if answer[: len(so_far)] == so_far and answer != so_far]
        return following or [0]

    found = model.generate(
        **given, num_beams=len(answers), prefix_allowed_tokens_fn=allowed, max_new_tokens=5, length_penalty=0.0,
        early_stopping="never",
    )  # fmt: skip
    ids = torch.tensor([answer + [0] * (4 - len(answer)) for answer in answers])
    ranked = model.rank_answers(ids, ids != 0, **given, normalize="sum")
    chosen = [[word for word in row if word] for row in written(found).tolist()]
    assert chosen == [answers[place] for place in ranked.indices[:, 0].tolist()]


def test_each_prompt_of_a_picture_is_a_task_of_its_own(call):
    """Tasks of one picture in one batch give what each gives alone."""
    model, given = call
    together = model.generate(**given, min_new_tokens=5, max_new_tokens=5)
    for row, prompt, at in zip(together, PROMPTS, INDEX.tolist(), strict=True):
        alone = model.generate(
            input_ids=prompt[None], pixel_values=given["pixel_values"][at : at + 1], min_new_tokens=5, max_new_tokens=5
        )
        assert torch.equal(row, alone[0])


def test_class_weights_through_trainer_are_the_weighted_loss_of_the_whole_batch(tiny_model, tmp_path):
    """Two accumulated batches give the gradient of one: each row's cross-entropy times its class' weight, over n."""
    text = {"is_causal": False, "pooler": "mean"}
    model = tiny_model(cls=MMForSequenceClassification, num_labels=3, text_config=text, dtype=torch.float32)
    pixels = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    labels, weights = torch.tensor([0, 0, 0, 2]), torch.tensor([0.5, 1.0, 4.0])
    logits = model(pixel_values=pixels).logits
    expected = (weights[labels] * cross_entropy(logits, labels, reduction="none")).mean()
    expected.backward()
    wanted = model.classifier.weight.grad.clone()
    model.zero_grad()

    def weighted(outputs, labels, num_items_in_batch=None):
        total = cross_entropy(outputs.logits, labels, weight=weights, reduction="sum")
        return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)

    seen = {}

    class Watching(Trainer):
        def training_step(self, *args, **kwargs):
            loss = super().training_step(*args, **kwargs)
            seen["gradient"] = self.model.classifier.weight.grad.clone()
            return loss

    arguments = TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=2, gradient_accumulation_steps=2, max_steps=1,
        learning_rate=0.0, max_grad_norm=0.0, use_cpu=True, report_to=[], disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    samples = [{"pixel_values": picture, "labels": label} for picture, label in zip(pixels, labels, strict=True)]
    Watching(model=model, args=arguments, train_dataset=samples, compute_loss_func=weighted).train()
    assert_close(seen["gradient"], wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("given", [{"text": 0.25, "image": 0.75}, None])
def test_late_fusion_weights_are_read_from_the_model_and_learn_unless_fixed(tiny_model, given):
    text = {"is_causal": False, "pooler": "mean"}
    model = tiny_model(
        cls=MMForSequenceClassification, num_labels=3, text_config=text, fusion_type="decision", fusion_weights=given
    )
    pixels = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    output = model(input_ids=PROMPTS, pixel_values=pixels, labels=torch.tensor([0, 1, 2]))
    if given:
        assert_close(output.fusion_weights, torch.tensor([0.25, 0.75], dtype=torch.float64))
    assert_close(output.fusion_weights.sum().item(), 1.0)
    output.loss.backward()
    learned = [name for name, value in model.model.fusion.named_parameters() if value.grad is not None]
    assert bool(learned) == (given is None)
    if given is None:
        assert_close(output.fusion_weights, model.model.fusion.gate_bias.softmax(0))
