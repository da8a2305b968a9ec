"""Where the weights of a run start: towers, losses that are settings, and what is refused."""

import json

import pytest
import torch
from transformers import BertTokenizer

import mm
from mm.evaluation.calibration import Calibration, calibration_of
from mm.training.metrics import check_metric
from mm.training.recipe import make_arguments
from mm.training.run import train
from mm.training.tasks import KINDS
from small_trainer import small_trainer


def run(settings):
    said = []
    return train(make_arguments(settings), said.append), said


def faults(folder) -> list[str]:
    return [check.told for check in mm.verify(folder) if check.is_fault]


@pytest.fixture(scope="module")
def towers(processor, tmp_path_factory):
    """(ViT, BERT): folders of small published towers with the processors that go with them."""
    from transformers import BertConfig, BertModel, ViTConfig, ViTImageProcessorPil, ViTModel

    root, tokenizer = tmp_path_factory.mktemp("towers"), processor.tokenizer
    parts = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ViTModel(ViTConfig(**parts, image_size=32, patch_size=16)).save_pretrained(root / "vit")
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(root / "vit")
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    config = BertConfig(**parts, **ids, vocab_size=len(tokenizer), max_position_embeddings=64)
    BertModel(config).save_pretrained(root / "bert")
    tokenizer.save_pretrained(root / "bert")
    return str(root / "vit"), str(root / "bert")


@pytest.mark.slow
def test_published_towers_start_with_their_weights_and_what_is_between_is_new(settings, towers, tmp_path):
    still = {"model": None, "vision_tower": towers[0], "text_tower": towers[1], "learning_rate": "0", "max_steps": 1}
    result, said = run(settings(**still))
    told = next(line for line in said if line.startswith("NEW WEIGHTS"))
    assert "vision_projector" in told and "vision_tower" not in told and faults(tmp_path / "out") == []
    bert = mm.MMForConditionalGeneration.from_towers(*towers)
    for name in ("model.vision_tower.patch_embedding.weight", "model.language_model.embed_tokens.weight"):
        assert torch.equal(result.model.state_dict()[name], bert.state_dict()[name])


def test_a_finder_starts_from_the_tower_of_an_mm_checkpoint_and_learns_only_what_joins(
    settings, towers, small_model, tmp_path
):
    joined = {"fusion_type": "none", "text_config": {"pooler": "mean"}, "projection_dim": 8}
    start = {"model": None, "vision_tower": str(small_model), "text_tower": towers[1], "freeze": "vision,text"}
    result, _ = run(settings("retrieval", **start, config=joined, max_steps=2))
    first = mm.MMForConditionalGeneration.from_pretrained(small_model).state_dict()
    kept = mm.MMForImageTextRetrieval.from_pretrained(tmp_path / "out").state_dict()
    seen = [name for name in kept if name.startswith("model.vision_tower.")]
    assert seen and all(torch.equal(kept[name], first[name]) for name in seen)
    assert {name.split(".")[0] for name, one in result.model.named_parameters() if one.requires_grad} == {"itc_head"}
    assert not any("pooler" in name for name in kept if "language_model" in name) and faults(tmp_path / "out") == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        {"contrastive_chunk_size": 2, "pretraining_losses": {"itc": 1.0}},
        {"contrastive_queue_size": 8, "pretraining_losses": {"itc": 1.0}},
    ],
)
def test_large_contrastive_batches_are_a_setting(settings, tmp_path, config):
    result, said = run(settings("retrieval", config=config))
    told = next(line for line in said if line.startswith("NEW WEIGHTS"))
    assert faults(tmp_path / "out") == [] and "slow" not in told  # a momentum encoder starts as the model
    assert (result.model.slow is not None) == ("contrastive_queue_size" in config)


@pytest.mark.parametrize("part", ["vision_config", "text_config"])
def test_an_unknown_field_of_a_part_ends_the_run_before_anything_is_trained(settings, tmp_path, part):
    with pytest.raises(ValueError, match=f"config.{part}: MM.*Config has no field 'initializer_rang' .did you mean"):
        run(settings(config={part: {"initializer_rang": 0.1}}))
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_a_metric_that_the_task_does_not_have_ends_the_run_before_it_trains(settings):
    with pytest.raises(
        ValueError, match="'exact_mach' .did you mean 'exact_match'.*accepted are loss, exact_match, chrf"
    ):
        run(settings(metric_for_best_model="exact_mach", dry_run=True))


@pytest.mark.parametrize("name", ["loss", "eval_chrf_low", "exact_match"])
def test_metrics_of_the_task_may_choose_the_best_model(name):
    check_metric(name, "caption")


@pytest.mark.parametrize("name", ["model", "processor", "text_tower", "teacher"])
def test_a_source_that_is_not_there_is_named_with_its_setting(settings, small_model, name):
    task = "distill" if name == "teacher" else "caption"
    given = {"text_tower": {"model": None, "vision_tower": "no_vision"}, "teacher": {"model": str(small_model)}}.get(
        name, {}
    )
    with pytest.raises(OSError, match=f"{name}='no_folder': no such folder"):
        run(settings(task, **{**given, name: "no_folder"}))


@pytest.mark.slow
def test_pretraining_may_leave_a_loss_out(settings, tmp_path):
    config = {"pretraining_losses": {"itc": 1.0, "mlm": 1.0}, "share_text_encoder": True}
    run(settings("pretrain", config=config))
    assert faults(tmp_path / "out") == []


def test_a_published_model_is_made_one_of_mm_first(settings, towers):
    with pytest.raises(ValueError, match="mm convert"):
        run(settings(model=towers[1]))


@pytest.fixture
def few_words(processor, tmp_path):
    """The captioner of small_trainer with a WordPiece tokenizer that knows the words of the squares alone."""
    words = "[PAD] [CLS] [SEP] [UNK] a square red green blue white black yellow".split()
    numbers = {word: number for number, word in enumerate(words)}
    limited = mm.MMProcessor(
        processor.image_processor, BertTokenizer(vocab=numbers, bos_token="[CLS]", eos_token="[SEP]")
    )
    small_trainer(tmp_path / "limited", limited).model.save_pretrained(tmp_path / "limited")
    limited.save_pretrained(tmp_path / "limited")
    return str(tmp_path / "limited")


@pytest.mark.slow
def test_words_that_the_tokenizer_does_not_know_are_told(settings, tmp_path, colours, few_words):
    lines = [{"image": "red-8.png", "suffix": "a red square"}, {"image": "blue-8.png", "suffix": "a \u4e9c square"}]
    (tmp_path / "two.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    more = {"media": str(colours), "eval_share": 0, "max_steps": 1}
    _, said = run(settings(model=few_words, data=str(tmp_path / "two.jsonl"), **more))
    assert any(line.startswith("UNKNOWN WORDS: 1 of 2") and "[UNK]" in line for line in said)
    _, said = run(settings(model=few_words, max_steps=1, output=str(tmp_path / "known")))
    assert not any("UNKNOWN" in line for line in said)


def test_a_model_that_was_asked_by_its_decoder_goes_on_so(settings):
    """Its captions were learned without a context text: with one the loss began at that of a new model."""
    _, said = run(settings(config={"share_text_encoder": True}, max_steps=1))
    assert not any("prompt_to" in line for line in said)


def test_a_calibration_is_not_handed_on(settings, small_model, tmp_path):
    """It is of the weights that the run changes, and none is used without a word."""
    model = mm.MMForConditionalGeneration.from_pretrained(small_model)
    Calibration(0.2, -0.5).keep(model)
    model.save_pretrained(tmp_path / "start")
    mm.MMProcessor.from_pretrained(small_model).save_pretrained(tmp_path / "start")
    result, said = run(settings(model=str(tmp_path / "start"), max_steps=1))
    assert any("the calibration of the start is left out" in line for line in said)
    saved = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert saved.get("calibration") is None and calibration_of(result.model) is None


def test_a_new_vocabulary_writes_words_that_the_old_one_could_not(settings, few_words, tmp_path, colours):
    """The run saves it, a resumed one makes it again, and the first embeddings of known words are the old ones."""
    names = {"red-8.png": "ein rotes Quadrat", "blue-8.png": "一个蓝色正方形"}
    lines = [{"image": image, "suffix": name} for image, name in names.items()]
    (tmp_path / "two.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines * 3))
    given = {"data": str(tmp_path / "two.jsonl"), "media": str(colours), "eval_share": 0, "new_vocabulary": 300}
    given["model"] = few_words
    result, said = run(settings(**given, max_steps=2))
    (told,) = [line for line in said if line.startswith("NEW VOCABULARY")]
    tokenizer = result.processor.tokenizer
    assert f"{len(tokenizer):,} byte-level pieces" in told and not any("UNKNOWN WORDS" in line for line in said)
    for name in names.values():
        assert tokenizer.decode(tokenizer(name).input_ids, skip_special_tokens=True) == name
    assert faults(tmp_path / "out") == []
    read = mm.MMProcessor.from_pretrained(tmp_path / "out").tokenizer
    assert read.get_vocab() == tokenizer.get_vocab()
    again, _ = run(settings(**given, max_steps=4, resume=True))
    assert again.processor.tokenizer.get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"new_vocabulary": 100}, "new_vocabulary=100; 260 pieces or more"),
        ({"new_vocabulary": 300, "lora": 4}, "new_vocabulary with lora=4"),
    ],
)
def test_a_new_vocabulary_that_cannot_be_is_refused(settings, given, words):
    with pytest.raises(ValueError, match=words):
        run(settings(**given))


def test_data_of_a_kind_that_the_model_does_not_read_are_refused_before_anything_runs(settings, tmp_path):
    for kind, clip, named in (("video", "clip.mp4", "modalities"), ("audio", "clip.wav", "audio-tower")):
        (tmp_path / clip).write_bytes(b"not read")
        line = {kind: clip, "suffix": "a clip"}
        (tmp_path / f"{kind}.jsonl").write_text(json.dumps(line) + "\n")
        with pytest.raises(ValueError, match=named):
            train(make_arguments(settings(data=str(tmp_path / f"{kind}.jsonl"), eval_share=0)), print)


def test_columns_of_numbers_beside_a_picture_are_said_not_to_be_read(settings, colours, tmp_path):
    lines = "".join(f"red-{size}.png,{size},{size}.5,red\n" for size in (8, 9))
    (tmp_path / "table.csv").write_text("image,age,height,suffix\n" + lines)
    said: list[str] = []
    train(
        make_arguments(settings(data=str(tmp_path / "table.csv"), media=str(colours), eval_share=0, dry_run=True)),
        said.append,
    )
    assert any(line.startswith("NOT READ") and "age, height" in line for line in said)


@pytest.mark.parametrize("head", ["image,text", "file_name,caption", "path,text", "image,suffix"])
@pytest.mark.parametrize("task", ["caption", "retrieval", "pretrain"])
def test_captions_are_learned_under_their_usual_names(settings, colours, tmp_path, task, head):
    (tmp_path / "texts.csv").write_text(f"{head}\nred-8.png,red\nred-9.png,red\n")
    given = settings(task, data=str(tmp_path / "texts.csv"), media=str(colours), eval_share=0, dry_run=True)
    train(make_arguments(given), lambda line: None)
    data = mm.load_data(tmp_path / "texts.csv", colours, format="table")
    made = KINDS[task].sample(data[0])
    assert made["text" if task == "retrieval" else "suffix"] == "red" and len({*made} & {"text", "suffix"}) == 1


@pytest.mark.parametrize("task", ["caption", "vqa"])
def test_a_question_without_an_answer_is_not_learned_as_one(settings, colours, tmp_path, task):
    (tmp_path / "asked.csv").write_text("image,question\nred-8.png,what is it?\n")
    with pytest.raises(ValueError, match="no line holds a text or a label .*--columns question=text"):
        train(make_arguments(settings(task, data=str(tmp_path / "asked.csv"), media=str(colours))), print)


def test_what_is_frozen_by_itself_is_told_and_a_field_that_a_tower_lacks_is_refused(settings):
    said: list[str] = []
    only_compared = {"pretraining_losses": {"itc": 1.0}}
    train(make_arguments(settings("retrieval", eval_share=0, dry_run=True, config=only_compared)), said.append)
    (line,) = (line for line in said if line.startswith("frozen, because"))
    assert "vision_projector" in line
    tower = {"model_type": "clip_vision_model", "hiden_size": 32, "image_size": 128, "patch_size": 64}
    made = settings(eval_share=0, preset="mm-tiny", config={"vision_config": tower})
    del made["model"]
    with pytest.raises(ValueError, match="hiden_size"):
        train(make_arguments(made), print)
