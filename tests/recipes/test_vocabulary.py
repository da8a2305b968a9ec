"""The pruned tokenizer splits the texts that it was made for as the full one does, and can spell the rest."""

import string

import pytest
from transformers import BertTokenizer

from mm.recipes.vocabulary import SPECIAL, pruned_tokenizer

PIECES = ["red", "apple", "app", "##le", "rock", "##et", "rocket", "unused", "##s"]


@pytest.fixture(scope="module")
def vocabulary_file(tmp_path_factory):
    characters = [mark for letter in string.ascii_lowercase + "0" for mark in (letter, f"##{letter}")]
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *PIECES, *characters]), encoding="utf-8")
    return path


def test_splits_are_those_of_the_full_vocabulary(vocabulary_file):
    full = BertTokenizer(vocab=str(vocabulary_file), do_lower_case=True)
    texts = ["red apples", "rockets", "apple rock"]
    pruned = pruned_tokenizer(vocabulary_file, texts)
    assert [pruned.tokenize(text) for text in texts] == [full.tokenize(text) for text in texts]
    assert "unused" not in pruned.get_vocab()
    assert len(pruned) < len(full)


def test_other_words_are_spelled_and_rows_begin_and_end(vocabulary_file):
    pruned = pruned_tokenizer(vocabulary_file, ["red apple"])
    assert pruned.unk_token not in pruned.tokenize("zebra")
    ids = pruned("red apple").input_ids
    assert (ids[0], ids[-1]) == (pruned.bos_token_id, pruned.eos_token_id) == (1, 2)
    assert pruned.pad_token_id == 0
    assert pruned.convert_ids_to_tokens([0, 1, 2, 3]) == list(SPECIAL)
    assert pruned.decode(ids, skip_special_tokens=True) == "red apple"
