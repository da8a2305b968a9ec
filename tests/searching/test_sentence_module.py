"""A retrieval model of MM in sentence-transformers: encode, save, evaluators, training (`make test-apps`)."""

from importlib import import_module

import numpy as np
import pytest
import torch
from PIL import Image

from comparing import close
from mm import MMForImageTextRetrieval

pytestmark = pytest.mark.apps
TEXTS = ["a red cat", "a dog", "blue", "a red dog blue cat"]


@pytest.fixture(scope="module")
def folder(saved_retriever, tmp_path_factory):
    return saved_retriever(tmp_path_factory.mktemp("finder"))


@pytest.fixture
def both(folder):
    """The model of MM, and the same in a SentenceTransformer."""
    library, mm = import_module("sentence_transformers"), import_module("mm")
    return MMForImageTextRetrieval.from_pretrained(folder), library.SentenceTransformer(
        modules=[mm.MMSentenceModule(folder)], device="cpu"
    )


@pytest.fixture
def pictures(tmp_path):
    generator = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for path in paths:
        Image.fromarray(generator.integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(path)
    return paths


def test_embeddings_are_those_of_the_model_alone_and_in_mixed_batches(both, pictures):
    model, sentences = both
    items = [*TEXTS, str(pictures[0]), Image.open(pictures[1]), {"image": pictures[2], "text": "a cat"}, pictures[3]]
    items += [{"text": "a dog"}, {"image": [pictures[0], pictures[1]]}]
    expected = model.encode(items)
    for batch_size in (1, 3, 32):
        found = sentences.encode(items, batch_size=batch_size, convert_to_tensor=True)
        close(found, expected)
    close(torch.from_numpy(sentences.encode("a red cat")), expected[0])
    close(sentences.similarity(found, found), model.similarity(expected, expected))
    assert sentences.get_embedding_dimension() == expected.shape[1] and sentences.supports(("image", "text"))


def test_a_prompt_goes_before_texts_and_long_texts_are_cut(both):
    model, sentences = both
    close(torch.from_numpy(sentences.encode(["a cat"], prompt="find : ")), model.encode(["find : a cat"]))
    sentences.max_seq_length = 4
    close(torch.from_numpy(sentences.encode(["a red dog blue"])), model.encode(["a red dog"]))
    close(torch.from_numpy(sentences.encode(["setup.py"])), model.encode([{"text": "setup.py"}]))


def test_a_saved_model_loads_in_both_libraries(both, tmp_path):
    library, (model, sentences) = import_module("sentence_transformers"), both
    sentences.max_seq_length = 7
    sentences.save_pretrained(str(tmp_path / "saved"))
    again = library.SentenceTransformer(str(tmp_path / "saved"), device="cpu", trust_remote_code=True)
    assert again.max_seq_length == 7
    close(again.encode(TEXTS, convert_to_tensor=True), sentences.encode(TEXTS, convert_to_tensor=True))
    same = MMForImageTextRetrieval.from_pretrained(tmp_path / "saved")
    close(same.encode(TEXTS), model.encode(TEXTS))


def test_their_evaluators_run(both, pictures):
    evaluation = import_module("sentence_transformers.sentence_transformer.evaluation")
    model, sentences = both
    corpus = {str(number): {"image": path} for number, path in enumerate(pictures)}
    queries = {str(number): text for number, text in enumerate(TEXTS)}
    relevant = {str(number): {str(number)} for number in range(4)}
    found = evaluation.InformationRetrievalEvaluator(
        queries,
        corpus,
        relevant,
        accuracy_at_k=[1],
        precision_recall_at_k=[1],
        mrr_at_k=[4],
        ndcg_at_k=[4],
        map_at_k=[4],
    )(sentences)
    best = model.similarity(TEXTS, pictures).argmax(1)
    assert found["cosine_accuracy@1"] == (best == torch.arange(4)).float().mean().item()
    scores = evaluation.EmbeddingSimilarityEvaluator(TEXTS, TEXTS[::-1], [0.1, 0.9, 0.9, 0.1])(sentences)
    assert set(scores) == {"pearson_cosine", "spearman_cosine"}
    triplets = evaluation.TripletEvaluator(TEXTS, pictures, pictures[::-1])(sentences)
    assert 0 <= triplets["cosine_accuracy"] <= 1


def test_their_loss_trains_both_sides(both, pictures):
    losses = import_module("sentence_transformers.sentence_transformer.losses")
    _, sentences = both
    sentences.train()
    loss = losses.MultipleNegativesRankingLoss(sentences)
    columns = [sentences.preprocess(TEXTS), sentences.preprocess(list(pictures))]
    before = loss(columns, None)
    before.backward()
    head = sentences[0].model.itc_head
    assert head.text.weight.grad.abs().sum() > 0 and head.vision.weight.grad.abs().sum() > 0
    torch.optim.SGD(sentences.parameters(), lr=0.01).step()
    columns = [sentences.preprocess(TEXTS), sentences.preprocess(list(pictures))]
    assert loss(columns, None) < before


def test_their_trainer_trains(both, pictures, tmp_path):
    library, datasets = import_module("sentence_transformers"), import_module("datasets")
    losses = import_module("sentence_transformers.sentence_transformer.losses")
    model, sentences = both
    rows = datasets.Dataset.from_dict({"anchor": TEXTS, "positive": list(map(str, pictures))})
    arguments = library.SentenceTransformerTrainingArguments(
        str(tmp_path / "run"),
        max_steps=3,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        report_to="none",
        use_cpu=True,
    )
    trainer = library.SentenceTransformerTrainer(
        sentences, arguments, train_dataset=rows, loss=losses.MultipleNegativesRankingLoss(sentences)
    )
    trainer.train()
    first = model.encode(TEXTS)
    assert (sentences.encode(TEXTS, convert_to_tensor=True) - first).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ("gone.png", "no such file"),
        (3, "got int"),
        ("", "empty"),
        (("a cat", "a dog"), "got tuple"),
        ({"role": "user", "content": "hi"}, "got list"),
    ],
)
def test_what_is_no_item_is_told(both, item, words):
    with pytest.raises(ValueError, match=words):
        both[1].encode([item])


def test_other_models_and_options_are_refused(both, folder):
    mm = import_module("mm")
    with pytest.raises(TypeError, match="MMForImageTextRetrieval"):
        mm.MMSentenceModule(torch.nn.Linear(2, 2))
    for wrong in (10**6, 0, -1, "a", True):
        with pytest.raises(ValueError, match="max_seq_length=.*; accepted are whole numbers from 1 to"):
            mm.MMSentenceModule(both[0], max_seq_length=wrong)
        with pytest.raises(ValueError, match="max_seq_length="):
            both[1].max_seq_length = wrong
    with pytest.raises(ValueError, match="processing_kwargs"):
        both[1].encode(["a cat"], processing_kwargs={"text": {}})
    with pytest.raises(ValueError, match="safetensors"):
        both[1].save_pretrained(str(folder / "other"), safe_serialization=False)
