"""draw(): pictures by generate() and in parallel, guidance, seeds, known ids, and words beside pictures."""

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer, TrainingArguments

import mm
from comparing import close
from mm import MMDataCollator, MMForConditionalGeneration, MMForMaskedLM
from mm.configuration.special_ids import id_faults
from mm.modeling_mm.tasks import parallel_drawing
from small_drawer import NAMES, small_drawer, small_processor, squares

BEGIN, END, MASK, FIRST, CODES = 14, 15, 16, 17, 16
PICTURES = squares(8)
PROCESSOR = small_processor()
KINDS = {"in order": MMForConditionalGeneration, "in parallel": MMForMaskedLM}


def asked(*texts):
    return PROCESSOR(text=list(texts), return_tensors="pt")


@pytest.fixture(params=KINDS)
def drawer(request):
    return small_drawer(PROCESSOR, KINDS[request.param])


@pytest.fixture
def in_order():
    return small_drawer(PROCESSOR)


@pytest.fixture
def in_parallel():
    return small_drawer(PROCESSOR, MMForMaskedLM)


# ---- both ways ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [None, 3.0])
def test_rows_are_whole_pictures_and_each_depends_on_its_text_and_seed_alone(drawer, scale):
    settings = {"seed": 5, "guidance_scale": scale, "temperature": 0.8, "top_k": 9, "top_p": 0.95}
    ids = drawer.draw(**asked(*NAMES), num_return_sequences=2, **settings)
    assert ids.shape == (16, CODES) and int(ids.min()) >= FIRST and int(ids.max()) < FIRST + 27
    assert len(PROCESSOR.decode_images(ids)) == 16
    alone = drawer.draw(**asked(NAMES[5]), num_return_sequences=3, **settings)
    assert torch.equal(ids[10:12], alone[:2])
    assert not torch.equal(alone[0], alone[1])
    own = drawer.draw(**asked(NAMES[5], NAMES[2]), **{**settings, "seed": [5, 6]})
    assert torch.equal(own[0], alone[0]) and not torch.equal(own[1], ids[4])


def test_known_ids_stay_and_the_others_are_drawn(drawer):
    known = PROCESSOR.encode_images(PICTURES[:2])
    free = torch.arange(CODES) % 3 == 0
    given = known.masked_fill(free, -100)
    ids = drawer.draw(**asked(*NAMES[:2]), known_ids=given, num_return_sequences=2, seed=1)
    assert torch.equal(ids[:, ~free], known.repeat_interleave(2, 0)[:, ~free])
    assert not torch.equal(ids[:, free], known.repeat_interleave(2, 0)[:, free])
    whole = drawer.draw(**asked(*NAMES[:2]), known_ids=known[:1])
    assert torch.equal(whole, known[:1].expand(2, -1))


@pytest.mark.parametrize(
    ("settings", "kind", "words"),
    [
        ({"known_ids": torch.zeros(2, 16)}, TypeError, "int64 tensor"),
        ({"known_ids": torch.full((2, 15), 17)}, ValueError, r"\(2, 16\), or \(1, 16\)"),
        ({"known_ids": torch.full((3, 16), 17)}, ValueError, r"got \(3, 16\)"),
        ({"known_ids": torch.zeros(2, 16, dtype=torch.long)}, ValueError, r"17\.\.43"),
        ({"seed": -1}, ValueError, "seed=-1"),
        ({"seed": [1]}, ValueError, "one for each of 2 rows"),
        ({"guidance_scale": 0.5}, ValueError, "guidance_scale"),
        ({"colour": "red"}, (TypeError, ValueError), "colour"),
    ],
)
def test_what_draw_does_not_take_is_told(drawer, settings, kind, words):
    with pytest.raises(kind, match=words):
        drawer.draw(**asked(*NAMES[:2]), **settings)


def test_a_model_without_codes_says_how_one_gets_them(drawer):
    plain = small_drawer(PROCESSOR, type(drawer), drawing={})
    with pytest.raises(ValueError, match="holds no codes of pictures"):
        plain.draw(**asked("a"))
    with pytest.raises(ValueError, match="nothing to draw"):
        drawer.draw()


def test_a_model_in_training_draws_without_dropout_and_trains_on(drawer):
    drawer.train()
    first, again = (drawer.draw(**asked("a"), seed=1) for _ in range(2))
    assert torch.equal(first, again) and drawer.training


def test_a_context_that_was_encoded_before_gives_the_same(drawer):
    inputs = asked(*NAMES[:3])
    text = {name: value for name, value in inputs.items() if name.startswith("context")}
    context = drawer.encode_context(**text)
    expected = drawer.draw(**text, seed=2, guidance_scale=2.0)
    assert torch.equal(drawer.draw(encoder_outputs=context, seed=2, guidance_scale=2.0), expected)
    index = torch.tensor([2, 0])
    both = drawer.draw(encoder_outputs=context, context_index=index, seed=2, guidance_scale=2.0)
    assert torch.equal(both, expected[index])


# ---- in order -------------------------------------------------------------------------------------------------------


def test_a_cache_changes_nothing(in_order):
    for scale in (None, 3.0):
        settings = {"seed": 3, "guidance_scale": scale}
        cached = in_order.draw(**asked(*NAMES), **settings)
        assert torch.equal(cached, in_order.draw(**asked(*NAMES), **settings, use_cache=False))


def test_guidance_is_the_formula_over_the_empty_text(in_order):
    """Ho & Salimans: other + (own - other) * scale; scores by two plain calls of forward."""
    inputs, scale = asked(*NAMES[:3]), 2.5
    told = in_order.generate(
        **{**inputs, "input_ids": torch.tensor([[2, BEGIN]] * 3), "attention_mask": torch.ones(3, 2)},
        guidance_scale=scale, max_new_tokens=4, return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    ids = told.sequences[:, :-1]
    empty = asked("", "", "")
    own, other = (
        in_order(input_ids=ids, **{k: v for k, v in read.items() if k.startswith("context")}).logits[:, 1:]
        for read in (inputs, empty)
    )
    expected = other + (own - other) * scale
    for step, scores in enumerate(told.scores):
        codes = slice(FIRST, FIRST + 27)
        close(scores[:, codes], expected[:, step, codes], 1e-4)
        assert bool(scores[:, :FIRST].isinf().all())


def test_a_negative_prompt_takes_the_place_of_the_empty_text(in_order):
    inputs, settings = asked(*NAMES[:2]), {"seed": 4, "guidance_scale": 4.0}
    empty = in_order.draw(**inputs, **settings)
    said = torch.tensor([[2, 3]])
    assert torch.equal(in_order.draw(**inputs, **settings, negative_prompt_ids=said), empty)
    other = asked("blue boat").context_input_ids
    assert not torch.equal(in_order.draw(**inputs, **settings, negative_prompt_ids=other), empty)
    with pytest.raises(ValueError, match="3 texts for 2 contexts"):
        in_order.draw(**inputs, **settings, negative_prompt_ids=other.repeat(3, 1))


def test_what_guidance_does_not_go_with_is_told(in_order):
    made = in_order(**asked("a"), use_cache=True).past_key_values
    refused = ({"num_beams": 2}, {"cache_implementation": "static"}, {"prompt_lookup_num_tokens": 2})
    for settings in (*refused, {"past_key_values": made}):
        with pytest.raises(ValueError, match="guidance_scale"):
            in_order.generate(**asked("a"), guidance_scale=2.0, max_new_tokens=3, **settings)


def test_generate_writes_words_without_begin_and_a_picture_with_it(in_order):
    inputs = asked(*NAMES[:4])
    words = in_order.generate(**inputs, max_new_tokens=8, do_sample=True)
    assert int(words.max()) < BEGIN
    inputs["input_ids"] = torch.tensor([[2, BEGIN]] * 4)
    inputs["attention_mask"] = torch.ones(4, 2, dtype=torch.long)
    for settings in ({"do_sample": True}, {"num_beams": 3}):
        rows = in_order.generate(**inputs, max_new_tokens=30, **settings)
        assert rows[:, 2 + CODES].tolist() == [END] * 4
        assert set(rows[:, 3 + CODES :].flatten().tolist()) <= {0, 3}
        assert len(PROCESSOR.decode_images(rows)) == 4


def test_guidance_of_a_caption_compares_with_no_picture(tiny_model, pictures):
    """Each row with its prompt and without its picture, in one generate()."""
    model = tiny_model()
    ids = torch.tensor([[1, 5, 6], [1, 7, 8], [1, 9, 4]])
    given = {"guidance_scale": 3.0, "max_new_tokens": 3, "do_sample": False}
    told = model.generate(
        ids, pixel_values=pictures, **given, return_dict_in_generate=True, output_scores=True, eos_token_id=None
    )
    text = told.sequences[:, :-1]
    own = model(input_ids=text, pixel_values=pictures).logits[:, 2:]
    other = model(input_ids=text).logits[:, 2:]
    for step, scores in enumerate(told.scores):
        close(scores.double(), (other + (own - other) * 3.0)[:, step], 1e-5)
    two = model.generate(ids[1:2], pixel_values=pictures[1:2], **given, eos_token_id=None)
    assert torch.equal(two, told.sequences[1:2])


@pytest.mark.parametrize("fields", [{"fusion_type": "merged"}, {}])
def test_a_decoder_without_a_text_encoder_draws_after_its_words(tiny_model, fields):
    drawing = {"first_id": 22, "codebook_size": 27, "grid": [4, 4], "begin_id": 19, "end_id": 20, "mask_id": 21}
    model = tiny_model(drawing=drawing, dtype=torch.float32, **fields)
    ids, mask = torch.tensor([[0, 1, 5], [1, 7, 8]]), torch.tensor([[0, 1, 1], [1, 1, 1]])
    for scale in (None, 2.0):
        drawn = model.draw(ids, mask, seed=1, guidance_scale=scale, num_return_sequences=2)
        assert drawn.shape == (4, 16) and int(drawn.min()) >= 22 and int(drawn.max()) < 49
        assert torch.equal(model.draw(ids[:1, 1:], seed=1, guidance_scale=scale), drawn[:1])


def test_negative_prompts_of_a_decoder_without_a_context_are_read(tiny_model):
    drawing = {"first_id": 22, "codebook_size": 27, "grid": [4, 4], "begin_id": 19, "end_id": 20, "mask_id": 21}
    model = tiny_model(drawing=drawing, dtype=torch.float32)
    ids, bos, other = torch.tensor([[1, 7, 8], [1, 9, 5]]), torch.tensor([[1]]), torch.tensor([[1, 6, 4]])
    given = {"do_sample": False, "guidance_scale": 5.0}
    plain = model.draw(ids, **given)
    assert torch.equal(model.draw(ids, negative_prompt_ids=bos, **given), plain)
    drawn = model.draw(ids, negative_prompt_ids=other, **given)
    assert not torch.equal(drawn, plain)
    each = model.draw(ids, negative_prompt_ids=torch.cat([other, ids[:1]]), **given)
    assert torch.equal(each[:1], drawn[:1]) and not torch.equal(each[1:], drawn[1:])
    padded, mask = torch.tensor([[0, 1, 6, 4]]), torch.tensor([[0, 1, 1, 1]])
    again = model.draw(ids, negative_prompt_ids=padded, negative_prompt_attention_mask=mask, **given)
    assert torch.equal(again, drawn)
    with pytest.raises(ValueError, match=r"int64 \(1, T\) or \(2, T\)"):
        model.draw(ids, negative_prompt_ids=other.repeat(3, 1), **given)
    with pytest.raises(ValueError, match="no text encoder"):
        model.draw(ids, pixel_values=torch.zeros(2, 3, 8, 8), negative_prompt_ids=other, **given)


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"num_return_sequences": 0}, "num_return_sequences=0"),
        ({"num_return_sequences": -1}, "num_return_sequences=-1"),
        ({"num_return_sequences": True}, "num_return_sequences=True"),
        ({"num_return_sequences": 2.0}, "num_return_sequences=2.0"),
        ({"seed": 1.5}, "seed=1.5"),
        ({"seed": torch.tensor([1, 2])}, "seed=tensor"),
        ({"guidance_scale": 0.5}, "guidance_scale=0.5"),
        ({"guidance_scale": float("inf")}, "guidance_scale=inf"),
        ({"guidance_scale": float("nan")}, "guidance_scale=nan"),
        ({"guidance_scale": "3"}, "guidance_scale='3'"),
        ({"negative_prompt_ids": torch.tensor([[2, 3]])}, "guidance_scale above 1"),
    ],
)
def test_what_draw_cannot_follow_is_told(in_order, in_parallel, parallel, given, told):
    with pytest.raises((TypeError, ValueError), match=told):
        (in_parallel if parallel else in_order).draw(**asked(*NAMES[:2]), **given)


@pytest.mark.parametrize("name", ["num_beams", "max_new_tokens", "repetition_penalty", "return_dict_in_generate"])
def test_settings_that_draw_makes_itself_are_refused_by_name(in_order, name):
    with pytest.raises(ValueError, match=f"draw\\(\\) sets {name}"):
        in_order.draw(**asked(*NAMES[:2]), **{name: 2})


def test_seeds_of_numpy_are_those_of_python(in_order, in_parallel):
    for model in (in_order, in_parallel):
        assert torch.equal(model.draw(**asked(*NAMES[:2]), seed=np.int64(3)), model.draw(**asked(*NAMES[:2]), seed=3))
    with pytest.raises(ValueError, match=r"steps=2.5"):
        in_parallel.draw(**asked(*NAMES[:2]), steps=2.5)


def test_generate_refuses_negative_prompts_that_nothing_is_compared_with(in_order):
    with pytest.raises(ValueError, match="guidance_scale above 1"):
        in_order.generate(**asked(*NAMES[:2]), negative_prompt_ids=torch.tensor([[2, 3]]))


def test_without_a_limit_a_picture_is_written_whole(tiny_model, tmp_path):
    drawing = {"first_id": 22, "codebook_size": 5, "grid": [5, 5], "begin_id": 19, "end_id": 20}
    model = tiny_model(drawing=drawing, dtype=torch.float32)
    ids = torch.tensor([[1, 7, 19], [1, 9, 19]])
    for given in ({}, {"num_beams": 2}, {"generation_config": GenerationConfig(do_sample=True)}):
        written = model.generate(ids, **given)[:, 3:]
        assert bool((written[:, :25] >= 22).all()) and written[:, 25].tolist() == [20, 20]
    assert model.generate(ids, max_new_tokens=5).shape == (2, 8)
    assert model.generate(ids, max_length=9).shape == (2, 9)
    assert model.generate(ids[:, :2]).shape[1] <= 22  # words, 20 of them as everywhere
    labels = torch.tensor([-100, -100, -100, *[22] * 25, 20])
    rows = [{"input_ids": torch.cat([row, labels[3:]]), "labels": labels} for row in ids]
    settings = Seq2SeqTrainingArguments(str(tmp_path), predict_with_generate=True, report_to=[], use_cpu=True)
    found = Seq2SeqTrainer(model, settings).predict(rows).predictions
    assert found.shape[1] >= 26 and (found[:, :25] >= 22).all() and (found[:, 25] == 20).all()


def test_a_drawer_reads_words_that_it_never_writes():
    """Its text encoder has the tokenizer's vocabulary; its decoder has codes only."""
    drawing = {"first_id": 7, "codebook_size": 3, "grid": [2, 2], "begin_id": 4, "end_id": 5}
    small = {"text_config": {"vocab_size": 10}}
    drawer = small_drawer(PROCESSOR, drawing=drawing, **small)
    writer = small_drawer(PROCESSOR, drawing=None, **small)
    found = [id_faults(one.config, one.generation_config, PROCESSOR.tokenizer) for one in (drawer, writer)]
    assert found[0] == [] and "the model's vocab_size is 10" in found[1][0]


def test_one_checkpoint_captions_and_draws(tiny_model, pictures, tmp_path):
    drawing = {"first_id": 22, "codebook_size": 27, "grid": [4, 4], "begin_id": 19, "end_id": 20, "mask_id": 21}
    tiny_model(drawing=drawing, share_text_encoder=True, dtype=torch.float32).save_pretrained(tmp_path)
    model = MMForConditionalGeneration.from_pretrained(tmp_path)
    words = model.generate(pixel_values=pictures.float(), max_new_tokens=4)
    assert int(words.max()) < 19
    drawn = model.draw(context_input_ids=torch.tensor([[1, 5, 6, 2]]), seed=1, guidance_scale=2.0)
    assert drawn.shape == (1, 16) and int(drawn.min()) >= 22


# ---- in parallel ----------------------------------------------------------------------------------------------------


def test_either_way_of_drawing_begins_from_the_weights_of_the_other(in_order, in_parallel, tmp_path):
    for number, (model, cls) in enumerate(
        ((in_order, mm.MMForMaskedLM), (in_parallel, mm.MMForConditionalGeneration))
    ):
        model.save_pretrained(tmp_path / str(number))
        is_causal = cls is mm.MMForConditionalGeneration
        other = cls.from_pretrained(tmp_path / str(number), text_config={"is_causal": is_causal}).eval()
        assert other.config.text_config.is_causal == is_causal
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in other.state_dict().items())
        assert other.draw(**asked("red apple"), seed=0).shape == (1, 16)


@pytest.mark.parametrize("steps", [1, 4, 16])
def test_as_many_steps_as_asked_each_with_fewer_hidden_codes(in_parallel, steps):
    hidden, forward = [], in_parallel.model.forward

    def counted(ids, *args, **kwargs):
        hidden.append((ids == MASK).sum(1).tolist())
        return forward(ids, *args, **kwargs)

    in_parallel.model.forward = counted
    in_parallel.draw(**asked(*NAMES[:2]), steps=steps, seed=0)
    assert len(hidden) == steps and hidden[0] == [CODES] * 2
    assert all(after[0] < before[0] for before, after in zip(hidden, hidden[1:], strict=False))


def test_steps_and_guidance_out_of_range_are_told(in_parallel):
    for steps in (0, 17):
        with pytest.raises(ValueError, match=r"must be in 1\.\.16"):
            in_parallel.draw(**asked("a"), steps=steps)
    no_mask = small_drawer(PROCESSOR, MMForMaskedLM, drawing={**PROCESSOR.drawing, "mask_id": None})
    with pytest.raises(ValueError, match="drawing_mask_id"):
        no_mask.draw(**asked("a"))


def test_a_cap_of_the_logits_holds_in_parallel_too(monkeypatch):
    capped = small_drawer(PROCESSOR, MMForMaskedLM, final_logit_softcapping=0.01)
    seen, draw = [], parallel_drawing.choose_in_steps

    def watched(predict, *args):
        return draw(lambda codes: seen.append(predict(codes)) or seen[-1], *args)

    monkeypatch.setattr(parallel_drawing, "choose_in_steps", watched)
    capped.draw(**asked("red apple"), seed=0)
    assert seen and all(0 < logits.abs().max() <= 0.01 for logits in seen)


def test_the_likeliest_picture_needs_no_seed(in_parallel):
    first, again = (in_parallel.draw(**asked(*NAMES), do_sample=False) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(in_parallel.draw(**asked(NAMES[1]), do_sample=False), first[1:2])


# ---- learned --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_eight_pictures_are_learned_by_heart_and_drawn_back_exactly(kind, tmp_path):
    model = small_drawer(PROCESSOR, KINDS[kind])
    samples = [{"text": name, "target_image": one} for name, one in zip(NAMES, PICTURES, strict=True)]
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=400, per_device_train_batch_size=8, learning_rate=3e-3,
        lr_scheduler_type="cosine", warmup_steps=10, remove_unused_columns=False, report_to="none", use_cpu=True,
        save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    collator = MMDataCollator(PROCESSOR, masked_targets=kind == "in parallel", guidance_dropout=0.1)
    Trainer(model=model, args=arguments, train_dataset=samples, data_collator=collator).train()
    model.save_pretrained(tmp_path / "model")
    PROCESSOR.save_pretrained(tmp_path / "model")
    loaded = KINDS[kind].from_pretrained(tmp_path / "model")
    processor = mm.MMProcessor.from_pretrained(tmp_path / "model")
    inputs = processor(text=NAMES, return_tensors="pt")
    for settings in ({"do_sample": False}, {"guidance_scale": 2.0, "do_sample": False}):
        drawn = processor.decode_images(loaded.draw(**inputs, **settings))
        assert [one.tobytes() for one in drawn] == [one.tobytes() for one in PICTURES]
