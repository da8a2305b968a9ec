"""Text in English spelling: a decoder that joins WordPieces by its rules, and a check which texts a tokenizer changes.

BERT's tokenizers cut at every mark of punctuation and forget where spaces were, so their output has spaces on both
sides: "e - mail", "six o ’ clock". `spelled` gives such a tokenizer another decoder; its ids do not change.
"""

from collections.abc import Iterable
from typing import Any

from tokenizers import Regex, decoders
from transformers import PreTrainedTokenizerFast

# Spaces to remove, rule after rule. If English has two spellings, one is used: "a - b" becomes "a-b".
# Marks that may open or close ("), and those between spaces (&, +, *, =), do not change.
SPACES = (
    r" (?=[.,;:!?%)\]}”…])",  # before what closes
    r"(?<=[(\[{“¿¡]) ",  # after what opens
    r"(?<=\w) (?=[-‐‑/_]( \w|$))",  # on both sides of what joins words; at the end too, as a stream shows it
    r"(?<=\w[-‐‑/_]) (?=\w)",
    r"(?<=\w) (?=’)",  # the closing quote and apostrophe: boys’ room
    r"(?<=\w) (?='( (s|t|m|d|re|ve|ll)\b| [rvl]$|$))",  # ' may open a quotation: only known endings
    r"(?<=[’']) (?=(s|t|m|d|re|ve|ll)\b|[rvl]$)",  # man’s, don't
    r"(?<=\b[od]) (?='( \w|$))",  # o'clock
    r"(?<=\b[od]['’]) (?=\w)",
    r"(?<=\d[.:]) (?=\d)",  # 3.5 and 12:30
    r"(?<=\d,) (?=\d{3}\b)",  # 1,000
    r"(?<=[$£€]) (?=\d)",
)
PROBES = ("a man's t-shirt, 3.5 (red)", "Big", "café")


def spelling_decoder() -> decoders.Decoder:
    """WordPieces to text, as `SPACES` says."""
    return decoders.Sequence(
        [
            decoders.WordPiece(prefix="##", cleanup=False),
            decoders.Fuse(),
            *(decoders.Replace(Regex(pattern), "") for pattern in SPACES),
        ]
    )


def spelled(tokenizer: Any) -> PreTrainedTokenizerFast:
    """The same WordPiece tokenizer, with a decoder that writes English spelling.

    It is a PreTrainedTokenizerFast, which is saved with its decoder; a BertTokenizer makes one of its own when it is
    loaded. Capitals and accents that the tokenizer drops when it reads do not come back.

    Raises: ValueError for a tokenizer of another kind: those keep their spaces.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or type(backend.model).__name__ != "WordPiece":
        kind = type(tokenizer).__name__
        raise ValueError(f"spelled() takes a WordPiece tokenizer such as BertTokenizer; got {kind}")
    copy = type(backend).from_str(backend.to_str())
    copy.decoder = spelling_decoder()
    return PreTrainedTokenizerFast(
        tokenizer_object=copy,
        model_max_length=tokenizer.model_max_length,
        padding_side=tokenizer.padding_side,
        model_input_names=tokenizer.model_input_names,
        **tokenizer.special_tokens_map,
    )


def changed_texts(tokenizer: Any, texts: Iterable[str]) -> dict[str, str]:
    """Those of `texts` that do not come out of the tokenizer as they went in, and what comes out."""
    texts = list(texts)
    rows = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    found = [tokenizer.decode(row) for row in rows]
    return {text: written for text, written in zip(texts, found, strict=True) if text != written}
