"""A small WordPiece tokenizer: the part of MiniLM's vocabulary that a list of texts uses."""

import string
from collections.abc import Iterable
from pathlib import Path

from transformers import BertTokenizer, PreTrainedTokenizerFast

from ..processing.spelling import spelled

SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[UNK]")  # their ids are 0, 1, 2, 3


def pruned_tokenizer(vocabulary_file: Path, texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """The tokenizer that splits `texts` as MiniLM's does, with a vocabulary of no more than that needs.

    It writes them in English spelling, in lower case and without accents (`changed_texts` finds those that suffer).

    Letters, digits and punctuation stay too, as words and as continuations, so that any English text has tokens.
    Greedy longest-match splitting never prefers a piece that was left out, so the splits are the same.
    """
    full = BertTokenizer(vocab=str(vocabulary_file), do_lower_case=True)
    used = {piece for text in texts for piece in full.tokenize(text)}
    for character in string.ascii_lowercase + string.digits + string.punctuation:
        used |= {character, f"##{character}"} & full.get_vocab().keys()
    order = full.get_vocab()
    pieces = [*SPECIAL, *sorted(used - set(SPECIAL), key=order.__getitem__)]
    tokenizer = BertTokenizer(
        vocab={piece: i for i, piece in enumerate(pieces)},
        do_lower_case=True,
        bos_token="[CLS]",
        eos_token="[SEP]",
        model_max_length=64,
    )
    return spelled(tokenizer)
