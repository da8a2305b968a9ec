"""MM in Transformers' pipelines, and its own tasks: mm-captioning, mm-vqa and mm-retrieval."""

# Fixtures build models whose types pyright cannot follow; tasks are registered at run time.

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor, BertTokenizer, WhisperFeatureExtractor, pipeline

from mm import MMForImageTextRetrieval, MMImageProcessorPil, MMModel, MMProcessor
from other_cpu import allowance

ROOT = Path(__file__).resolve().parents[1]
MODEL = str(ROOT / "checkpoints" / "mm-tiny")
PICTURE = str(ROOT / "examples" / "pictures" / "rocket.png")


@pytest.fixture(scope="module")
def model():
    return AutoModel.from_pretrained(MODEL).eval()


@pytest.fixture(scope="module")
def processor():
    return AutoProcessor.from_pretrained(MODEL)


def assert_same(found, expected):
    torch.testing.assert_close(
        torch.tensor(found, dtype=expected.dtype), expected.detach(), rtol=0, atol=1e-5 * allowance()
    )


def test_a_text_alone_gives_its_states(model, processor):
    extract = pipeline("feature-extraction", model=model, tokenizer=processor.tokenizer)
    texts = ["a red apple", "a rocket"]
    for text, states in zip(texts, extract(texts), strict=True):
        assert_same(states, model(**processor.tokenizer(text, return_tensors="pt")).last_hidden_state)


def test_a_picture_alone_gives_its_tokens_and_its_vector(model, processor):
    picture = Image.open(PICTURE).convert("RGB")
    expected = model(**processor(images=picture, return_tensors="pt"))
    extract = pipeline("image-feature-extraction", model=model, image_processor=processor.image_processor)
    assert_same(extract(picture), expected.last_hidden_state)
    assert_same(extract(picture, pool=True), expected.pooler_output)


def test_sounds_alone_give_their_tokens_and_their_vector(tiny_model):
    model = tiny_model(cls=MMModel, modalities=["audio"], audio_config="whisper")
    sounds = torch.randn(2, 1, 12, 8, dtype=torch.float64)
    output = model(input_features=sounds)
    assert output.last_hidden_state.shape[:2] == (2, 4) and output.pooler_output.shape == (2, 20)
    assert output.past_key_values is None
    assert_same(output.last_hidden_state[1:].tolist(), model(input_features=sounds[1:]).last_hidden_state)


# ---- writing --------------------------------------------------------------------------------------------------------

PICTURES = [str(path) for path in sorted((ROOT / "examples" / "pictures").glob("*.png"))[:3]]


def opened(path):
    return Image.open(path).convert("RGB")


@pytest.fixture(scope="module")
def captioning():
    return pipeline("mm-captioning", model=MODEL)


def test_a_prompt_is_gone_on_from_also_where_other_texts_are_closed(captioning):
    """As of a CoCa, whose texts are compared whole."""
    expected = captioning(PICTURE, prompt="a red", max_new_tokens=3)
    assert captioning.processor.add_eos_token is False
    captioning.processor.add_eos_token = True
    try:
        assert captioning(PICTURE, prompt="a red", max_new_tokens=3) == expected
    finally:
        captioning.processor.add_eos_token = False


def generated(pipe, *, images, **given):
    read = pipe.processor(images=images, return_tensors="pt", **given)
    ids = pipe.model.generate(**read)[:, read["input_ids"].shape[1] if "input_ids" in read else 0 :]
    return [text.strip() for text in pipe.processor.batch_decode(ids, skip_special_tokens=True)]


def test_image_text_to_text_gives_what_generate_does_for_one_and_for_many(captioning):
    pipe = pipeline("image-text-to-text", model=captioning.model, processor=captioning.processor)
    images = [opened(path) for path in PICTURES]
    expected = [generated(captioning, images=image, text="")[0] for image in images]
    one = pipe(images[0], text="", return_full_text=False)
    assert one[0]["generated_text"].strip() == expected[0]
    many = pipe([[image] for image in images], text=["", "", ""], return_full_text=False, batch_size=2)
    assert [found["generated_text"].strip() for found in many] == expected


def test_a_chat_in_image_text_to_text(captioning):
    words = "{% for m in messages %}{% for c in m['content'] %}{{ c['text'] }}{% endfor %}{% endfor %}"
    processor = AutoProcessor.from_pretrained(MODEL, chat_template=words)
    pipe = pipeline("image-text-to-text", model=captioning.model, processor=processor)
    content = [{"type": "image", "image": opened(PICTURE)}, {"type": "text", "text": "a"}]
    answer = pipe(text=[{"role": "user", "content": content}], return_full_text=False)[0]["generated_text"]
    assert answer.strip() == generated(captioning, images=opened(PICTURE), text="a")[0]


def test_captions_of_one_picture_or_many_by_path_or_opened(captioning):
    expected = [generated(captioning, images=path) for path in PICTURES]
    assert [found["caption"] for found in captioning(PICTURES[0])] == expected[0]
    assert captioning(opened(PICTURES[0])) == captioning(PICTURES[0])
    assert [[found["caption"] for found in each] for each in captioning(PICTURES)] == expected
    assert len(captioning(PICTURES[0], num_beams=3, num_return_sequences=2)) == 2
    prompted = captioning(PICTURES[0], prompt="a")
    assert [found["caption"] for found in prompted] == generated(captioning, images=PICTURES[0], text="a")


def test_a_batch_of_captions_holds_all_of_each_picture(captioning):
    several = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 3}
    assert captioning(PICTURES, **several, batch_size=2) == [captioning(path, **several) for path in PICTURES]


@pytest.fixture
def answering(tiny_model):
    def build(**fields):
        words = "[PAD] [UNK] [CLS] [SEP] [MASK] what is it a red blue cat dog".split()
        tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)})
        processor = MMProcessor(MMImageProcessorPil(size={"height": 16, "width": 16}), tokenizer)
        text = {"vocab_size": len(words), "bos_token_id": 2, "eos_token_id": 3}
        encoder = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
        if fields.pop("has_encoder", False):
            fields["text_encoder_config"] = {**encoder, **text, "pad_token_id": 0}
        return tiny_model(dtype=torch.float32, text_config=text, **fields), processor

    return build


@pytest.mark.parametrize("has_encoder", [False, True])
def test_questions_are_answered_by_writing_or_by_ranking(answering, has_encoder):
    model, processor = answering(has_encoder=has_encoder)
    pipe = pipeline("mm-vqa", model=model, processor=processor)
    side = "context_text" if has_encoder else "text"
    read = processor(images=[opened(PICTURE)], **{side: ["what is it"]}, return_tensors="pt")
    start = read["input_ids"].shape[1]
    expected = processor.batch_decode(model.generate(**read, max_new_tokens=4)[:, start:], skip_special_tokens=True)
    asked = {"image": opened(PICTURE), "question": "what is it"}
    assert pipe(**asked, max_new_tokens=4) == [{"answer": expected[0].strip()}]
    assert pipe([asked, asked], max_new_tokens=4) == [[{"answer": expected[0].strip()}]] * 2
    ranked = pipe(**asked, answers=["a cat", "a dog", "red"])
    assert {found["answer"] for found in ranked} == {"a cat", "a dog", "red"}
    scores = [found["score"] for found in ranked]
    assert scores == sorted(scores, reverse=True)
    for found in ranked:
        ids = torch.tensor([processor.tokenizer.encode(found["answer"], add_special_tokens=False) + [3]])
        assert found["score"] == pytest.approx(model.rank_answers(ids, **read).scores.item(), abs=1e-5)


@pytest.mark.parametrize("has_encoder", [False, True])
@pytest.mark.parametrize("options", [{"max_new_tokens": 3}, {"answers": ["a cat", "red"]}], ids=["write", "rank"])
def test_a_batch_of_questions_is_answered_as_each_alone(answering, has_encoder, options):
    model, processor = answering(has_encoder=has_encoder)
    pipe = pipeline("mm-vqa", model=model, processor=processor)
    questions = zip(PICTURES, ["what is it", "is it", "is it a red dog"], strict=True)
    asked = [{"image": opened(path), "question": question} for path, question in questions]
    for found, one in zip(pipe(asked, **options, batch_size=2), asked, strict=True):
        for answer, alone in zip(found, pipe(one, **options), strict=True):
            assert answer["answer"] == alone["answer"]
            assert answer.get("score", 0) == pytest.approx(alone.get("score", 0), abs=1e-5)


def test_letters_are_read_however_they_were_typed(answering):
    """A tokenizer that keeps accents knows é as one letter: in two it read [UNK], and ranked that."""
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    model, processor = answering()
    words = {composed if word == "cat" else word: number for word, number in processor.tokenizer.get_vocab().items()}
    processor.tokenizer = BertTokenizer(vocab=words, do_lower_case=False, strip_accents=False)
    pipe = pipeline("mm-vqa", model=model, processor=processor)
    picture, found = opened(PICTURE), []
    for word in (composed, decomposed):
        ranked = pipe(image=picture, question=f"is it a {word}", answers=["red", f"a {word}"])
        assert {one["answer"] for one in ranked} == {"red", f"a {word}"}
        found.append({one["answer"].replace(word, composed): one["score"] for one in ranked})
    assert found[1] == pytest.approx(found[0], abs=1e-5)


def test_a_question_without_its_picture_is_refused(answering):
    model, processor = answering()
    pipe = pipeline("mm-vqa", model=model, processor=processor)
    with pytest.raises(ValueError, match="mm-vqa takes image=... and question=..."):
        pipe(question="what is it")
    with pytest.raises(ValueError, match="answers are ranked, not written, so num_beams would not be read"):
        pipe(image=opened(PICTURE), question="what is it", answers=["a"], num_beams=2)
    with pytest.raises(TypeError, match=r"one text, a string; got \['is it', 'what'\]"):
        pipe(image=[opened(PICTURE)] * 2, question=["is it", "what"])
    for name in ("mm-vqa", "mm-captioning", "image-text-to-text"):
        with pytest.raises(ValueError, match="the list of inputs is empty"):
            pipeline(name, model=model, processor=processor)([], **({"text": []} if name.startswith("image") else {}))
    for answers in ("a cat", []):
        with pytest.raises(ValueError, match="answers is a list of strings to rank; got"):
            pipe(image=opened(PICTURE), question="what is it", answers=answers)


# ---- any to any: Transformers wants torchvision for pictures and videos ---------------------------------------------

CHAT = "{% for m in messages %}{% for c in m['content'] %}{{ c['text'] }}{% endfor %}{% endfor %}"
TONE = np.sin(np.arange(1600) / 9).astype(np.float32)
FILM = [Image.new("RGB", (20, 20), (20 * number, 90, 0)) for number in range(6)]


@pytest.fixture
def any_to_any(answering):
    """`any_to_any(*modalities)`: (pipeline, what generate() writes for the same inputs)."""

    def build(*modalities: str):
        audio = {"audio_config": "whisper"} if "audio" in modalities else {}
        model, processor = answering(modalities=list(modalities), **audio)
        extractor = WhisperFeatureExtractor(feature_size=12, n_fft=400, hop_length=160, chunk_length=1)
        extractor.n_samples, extractor.nb_max_frames = 1280, 8  # as long as the tiny tower's window
        parts = {"image_processor": processor.image_processor, "tokenizer": processor.tokenizer}
        heard = {"feature_extractor": extractor} if audio else {}
        whole = MMProcessor(**parts, **heard, chat_template=CHAT)
        pipe = pipeline("any-to-any", model=model, processor=whole)

        def written(**given) -> list[str]:
            read = whole(**given, return_tensors="pt")
            ids = model.generate(**read, max_new_tokens=5)
            return whole.batch_decode(ids[:, read["input_ids"].shape[1] :], skip_special_tokens=True)

        return pipe, written

    return build


def new_texts(pipe, *args, **given) -> list[str]:
    found = pipe(*args, **given, max_new_tokens=5, return_full_text=False)
    return [entry["generated_text"].strip() for entry in found]


def test_sounds_go_through_any_to_any_in_a_call_and_in_a_chat(any_to_any):
    pipe, written = any_to_any("audio")
    expected = [text.strip() for text in written(audio=TONE, text="what is", sampling_rate=16000)]
    assert new_texts(pipe, "what is", audio=TONE) == expected
    content = [{"type": "audio", "audio": TONE}, {"type": "text", "text": "what is"}]
    assert new_texts(pipe, text=[{"role": "user", "content": content}]) == expected


@pytest.mark.newest
def test_pictures_videos_and_sounds_go_through_any_to_any(any_to_any):
    pipe, written = any_to_any("image", "video", "audio")
    media = {"images": opened(PICTURE), "videos": [FILM], "audio": TONE}
    for name, given in media.items():
        (expected,) = written(text="what is", **{name: given})
        assert new_texts(pipe, "what is", **{name: given}) == [expected.strip()]
    blocks = [("image", opened(PICTURE)), ("video", FILM), ("audio", TONE)]
    content = [*({"type": kind, kind: given} for kind, given in blocks), {"type": "text", "text": "what is"}]
    (expected,) = written(text="what is", **media)
    assert new_texts(pipe, text=[{"role": "user", "content": content}]) == [expected.strip()]


@pytest.mark.newest
def test_any_to_any_finds_the_class_of_a_checkpoint_and_captions_with_it(captioning):
    pipe = pipeline("any-to-any", model=MODEL)
    expected = [generated(captioning, images=opened(path), text="")[0] for path in PICTURES]
    found = pipe(text=["", "", ""], images=[[opened(path)] for path in PICTURES], return_full_text=False)
    assert [entry["generated_text"].strip() for entry in found] == expected


# ---- explaining -----------------------------------------------------------------------------------------------------


def test_captions_are_explained_word_by_word_one_or_many(captioning):
    pipe = pipeline("mm-explanation", model=captioning.model, processor=captioning.processor)
    model, processor, settings = pipe.model, pipe.processor, {"num_beams": 2, "max_new_tokens": 5}
    for method, prompt in (("attention", None), ("grad", "a"), ("rollout", None)):
        given = {} if prompt is None else {"text": [prompt], "add_eos_token": False}
        alone = []
        for path in PICTURES[:2]:
            read = processor(images=[path], **given, return_tensors="pt")
            ids = model.generate(**read, **settings)
            alone += model.explain(read, ids, processor=processor, pictures=[path], method=method)
        asked = {"method": method, **({} if prompt is None else {"prompt": prompt}), **settings}
        for found in ([pipe(path, **asked) for path in PICTURES[:2]], pipe(PICTURES[:2], batch_size=2, **asked)):
            assert [[one["word"] for one in each] for each in found] == [one.words for one in alone] and alone[0].words
            for each, one in zip(found, alone, strict=True):
                for word, of_word in zip(each, one.maps, strict=True):
                    assert word["map"].shape == of_word.shape and abs(word["map"] - of_word).max() < 1e-5
    with pytest.raises(ValueError, match="leave num_return_sequences out"):
        pipe(PICTURES[0], num_return_sequences=2)
    assert pipeline("mm-explanation").model.name_or_path.endswith("mm-tiny")


# ---- finding --------------------------------------------------------------------------------------------------------


@pytest.fixture
def finding(answering):
    return answering(cls=MMForImageTextRetrieval)


def test_pictures_are_found_by_a_text_and_texts_by_a_picture(finding):
    model, processor = finding
    pipe = pipeline("mm-retrieval", model=model, processor=processor)
    images, texts = [opened(path) for path in PICTURES], ["a red cat", "a blue dog"]
    seen = model.encode_image(**processor(images=images, return_tensors="pt"))
    read = model.encode_text(processor(text=texts, return_tensors="pt").input_ids)
    similar = read @ seen.T
    for number, text in enumerate(texts):
        found = pipe(text=text, images=images, top_k=2)
        order = similar[number].argsort(descending=True)[:2]
        assert [entry["index"] for entry in found] == order.tolist()
        assert [entry["score"] for entry in found] == pytest.approx(similar[number][order].tolist(), abs=1e-5)
    assert [entry["index"] for entry in pipe(image=images[1], texts=texts)] == similar[:, 1].argsort(
        descending=True
    ).tolist()
    with pytest.raises(ValueError, match="mm-retrieval takes text=... and images="):
        pipe(text="a cat")
    for given in ({"text": "a cat", "images": []}, {"text": "a cat", "images": "a.png"}):
        with pytest.raises(ValueError, match=r"images=\[...\], a list of one or several"):
            pipe(**given)
    for texts in ("a cat", []):
        with pytest.raises(ValueError, match=r"texts=\[...\], a list of one or several"):
            pipe(image=images[0], texts=texts)


def test_pictures_and_texts_are_matched_read_together(finding):
    model, processor = finding
    pipe = pipeline("mm-retrieval", model=model, processor=processor)
    images, texts = [opened(path) for path in PICTURES], ["a red cat", "a blue dog"]
    read = processor(images=images, text=[texts] * len(images), return_tensors="pt")
    chances = model.match(**read).softmax(1)[:, 1].view(len(images), 2)
    for number, image in enumerate(images):
        found = {one["index"]: one["score"] for one in pipe(image=image, texts=texts, match=True)}
        assert [found[0], found[1]] == pytest.approx(chances[number].tolist(), abs=1e-5)
    found = pipe(text=texts[1], images=images, match=True, top_k=len(images))
    assert [one["score"] for one in found] == pytest.approx(chances[:, 1].sort(descending=True).values.tolist())


def test_zero_shot_classes_are_the_similarities_of_their_texts(finding):
    model, processor = finding
    parts = {"tokenizer": processor.tokenizer, "image_processor": processor.image_processor}
    pipe = pipeline("zero-shot-image-classification", model=model, **parts)
    labels = ["cat", "dog"]
    found = pipe(opened(PICTURE), candidate_labels=labels, hypothesis_template="a {}")
    text = processor.tokenizer(["a cat", "a dog"], return_tensors="pt", padding=True)
    pixels = processor.image_processor([opened(PICTURE)], return_tensors="pt")
    scores = model(input_ids=text.input_ids, **pixels).logits_per_image.softmax(-1)[0].tolist()
    assert {entry["label"]: entry["score"] for entry in found} == pytest.approx(dict(zip(labels, scores, strict=True)))


@pytest.mark.parametrize("loss", ["infonce", "sigmoid"])
def test_zero_shot_classes_from_a_folder_are_those_of_mm_classify(answering, loss, tmp_path):
    """Texts are closed, and as long as the model learned them."""
    model, processor = answering(cls=MMForImageTextRetrieval, contrastive_loss=loss)
    processor = MMProcessor(processor.image_processor, processor.tokenizer, add_eos_token=True, fixed_length=9)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    labels, template = ["cat", "blue dog", "red"], "what is {}"
    pipe = pipeline("zero-shot-image-classification", model=str(tmp_path))
    embeds = model.encode_labels(labels, template, processor=processor)
    seen = model.encode([Path(path) for path in PICTURES], processor=processor)
    found = pipe(PICTURES, candidate_labels=labels, hypothesis_template=template)
    for each, expected in zip(found, model.label_scores(seen, embeds).tolist(), strict=True):
        scores = {one["label"]: one["score"] for one in each}
        assert [scores[label] for label in labels] == pytest.approx(expected, abs=1e-5)
        assert [*scores.values()] == sorted(scores.values(), reverse=True)


# ---- untrained heads ------------------------------------------------------------------------------------------------


def test_nothing_is_found_with_heads_that_the_checkpoint_lacks(captioning, tmp_path):
    for part in (captioning.model, captioning.processor):
        part.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="itc_head of MMForImageTextRetrieval would be random: the checkpoint"):
        pipeline("mm-retrieval", model=str(tmp_path))
    model = MMForImageTextRetrieval.from_pretrained(tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="was written by MMForConditionalGeneration, which has no such head"):
        pipeline("mm-retrieval", model=model, processor=processor)
    with torch.no_grad():
        next(model.itc_head.parameters()).add_(0.1)  # as a step of training does
    assert pipeline("mm-retrieval", model=model, processor=processor)(image=PICTURE, texts=["a rocket"])


def test_captions_are_not_written_from_a_checkpoint_without_a_head(captioning, tmp_path):
    captioning.model.model.save_pretrained(tmp_path)
    captioning.processor.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="lm_head.* would be random: the checkpoint was written by MMModel"):
        pipeline("mm-captioning", model=str(tmp_path))
