"""BERTScore over a model folder of random weights."""

import random

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from mm.evaluation.bert_score import bert_score

TOLD = ["a red dog runs", "two cats", ""]
TRUTH = [["a dog runs", "a red dog"], ["the cats sit", "two cats"], ["a dog"]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"a the red dog dogs runs two cats sit".split()]
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=16, **names).save_pretrained(path)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=16, **sizes)).save_pretrained(path)
    return path


def test_equal_captions_have_1_and_empty_ones_0(folder):
    score = bert_score(TOLD, TRUTH, folder)
    assert score.per_item[1] == pytest.approx(1, abs=1e-6) and score.per_item[2] == 0 and 0 < score.per_item[0] < 1
    assert score.value == pytest.approx(score.per_item.mean()) and bert_score([""], [""], folder).value == 0


def test_neither_batches_nor_order_count(folder):
    one = bert_score(TOLD, TRUTH, folder, batch_size=1)
    assert one.per_item == pytest.approx(bert_score(TOLD, TRUTH, folder).per_item, abs=1e-6)
    assert bert_score(TOLD[::-1], TRUTH[::-1], folder).per_item[::-1] == pytest.approx(one.per_item, abs=1e-6)


@pytest.mark.parametrize("idf", [False, True])
def test_bounds_sides_references_and_padding(folder, idf):
    draw = random.Random(1)
    told, truth, worse = (
        [" ".join(draw.choices("a the red dog dogs runs".split(), k=draw.randint(1, 12))) for _ in range(12)]
        for _ in range(3)
    )
    score = bert_score(told, truth, folder, idf=idf)
    assert ((score.per_item >= -1) & (score.per_item <= 1 + 1e-6)).all() and len(set(score.per_item.round(6))) > 6
    # each alone is as beside the longest text that the model reads: padding is no token
    longest = " ".join(["dogs"] * 14)
    alone = [bert_score([one], [two], folder).value for one, two in zip(told, truth, strict=True)]
    beside = bert_score([*told, longest], [*truth, longest], folder)
    assert beside.per_item[:-1] == pytest.approx(alone, abs=1e-6) and beside.per_item[-1] == pytest.approx(1, abs=1e-6)
    # references and captions exchanged: precision is recall, and F the same
    if not idf:
        other = bert_score(truth, told, folder)
        assert other.per_item == pytest.approx(score.per_item, abs=1e-6)
        assert other.details["recall"] == pytest.approx(score.details["precision"], abs=1e-6)
        twice = bert_score(told + told, truth + truth, folder)
        assert twice.value == pytest.approx(score.value, abs=1e-6)
        # another reference never lowers a score, wherever it stands
        both = bert_score(told, [[two, three] for two, three in zip(truth, worse, strict=True)], folder)
        turned = bert_score(told, [[three, two] for two, three in zip(truth, worse, strict=True)], folder)
        assert (both.per_item >= score.per_item - 1e-6).all()
        assert turned.per_item == pytest.approx(both.per_item, abs=1e-6)


def test_f_is_that_of_cosines_by_hand(folder):
    """Without [CLS] and [SEP] in the means, which are there to be matched; idf weighs by the references."""
    from transformers import AutoTokenizer

    model, tokenizer = BertModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    told, truth = "two dogs sit", "the dogs runs"
    model.requires_grad_(False)
    states = [model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True) for text in (told, truth)]
    ours, theirs = (torch.nn.functional.normalize(state.hidden_states[2][0], dim=-1) for state in states)
    cosines = ours @ theirs.T
    precision, recall = cosines.amax(1)[1:-1].mean().item(), cosines.amax(0)[1:-1].mean().item()
    score = bert_score([told], [truth], folder, layer=2)
    assert score.details == pytest.approx({"precision": precision, "recall": recall}, abs=1e-6)
    assert score.value == pytest.approx(2 * precision * recall / (precision + recall), abs=1e-6)
    # of two references "the" and "dogs" are in one, "runs" in both, "two" and "sit" in none
    weights = torch.tensor([3, 1.5, 3]).log(), torch.tensor([1.5, 1.5, 1]).log()
    best = cosines.amax(1)[1:-1], cosines.amax(0)[1:-1]
    precision, recall = (float(w @ b / w.sum()) for w, b in zip(weights, best, strict=True))
    score = bert_score([told, told], [truth, "a red runs"], folder, layer=2, idf=True)
    assert score.per_item[0] == pytest.approx(2 * precision * recall / (precision + recall), abs=1e-6)


def test_what_cannot_be_compared_is_refused(folder, tmp_path):
    with pytest.raises(OSError, match="no folder.*nothing is downloaded"):
        bert_score(["a"], ["a"], "bert-base-uncased")
    with pytest.raises(ValueError, match="layer=4; the model has layers 1 to 3"):
        bert_score(["a"], ["a"], folder, layer=4)
    with pytest.raises(ValueError, match="idf=True with 1 reference"):
        bert_score(["a"], ["a"], folder, idf=True)
    with pytest.raises(ValueError, match="22 tokens; the model reads 16"):
        bert_score(["a " * 20], ["a"], folder)


@pytest.mark.slow
@pytest.mark.parametrize("idf", [False, True])
def test_it_is_that_of_the_package_bert_score(folder, idf):
    theirs = pytest.importorskip("bert_score", reason="pip install --no-deps bert-score")
    draw = random.Random(0)
    captions = [" ".join(draw.choices("a the red dog dogs runs".split(), k=draw.randint(1, 12))) for _ in range(160)]
    told, truth = captions[:40], [captions[n : n + 3] for n in range(40, 160, 3)]
    precision, recall, f = theirs.score(told, truth, model_type=str(folder), num_layers=2, idf=idf)
    score = bert_score(told, truth, folder, layer=2, idf=idf)
    assert score.per_item == pytest.approx(f.numpy(), abs=1e-6)
    assert score.value == pytest.approx(f.mean().item(), abs=1e-6)
