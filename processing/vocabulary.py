"""new_vocabulary: another vocabulary under a trained model, and what the old one knew of its words kept.

    texts ── byte-level BPE ──► pieces ── spelled by the old tokenizer ──► mean of the old embeddings

A vocabulary that was cut to one kind of text spells other texts letter by letter, or cannot at all. Every string has
tokens in the new one, and `decode` gives it back. A piece starts as the mean of the old pieces that it is spelled with
(Gee et al. 2022, "Fast Vocabulary Transfer"), so the model goes on from what it knew; it has to be trained further.
"""

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn
from transformers import PreTrainedTokenizerFast

from .call_options import check_processor
from .images.limits import check_count

PAD, BOS, EOS = 0, 1, 2
SPECIAL = ("<pad>", "<s>", "</s>", "<mask>")
LEAST = len(SPECIAL) + 256  # a piece for each byte


def byte_tokenizer(texts: Iterable[str], size: int, marks: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most `size` pieces: <s> text </s>, and for every string `decode` gives it back.

    A space is put before a text and taken away again, so a word is the same piece at the start and inside.

    Args:
        texts: what it is made for; their order does not matter.
        marks: further tokens that are never split, such as "<de>"; unlike special tokens, texts and prompts may hold
            them, and decoding shows them.
    Raises: ValueError for a size that has no room for the 256 bytes and these tokens.
    """
    named = [*SPECIAL, *marks]
    check_count("size", size)
    if size < 256 + len(named):
        raise ValueError(f"size={size}; a vocabulary has 256 bytes and {len(named)} further tokens at least")
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.Prepend(" ")
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=named, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), min_frequency=2,
        show_progress=False,
    )  # fmt: skip
    made.train_from_iterator(sorted(texts), trainer)
    ends = [("<s>", BOS), ("</s>", EOS)]
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    held = json.loads(made.to_str())
    for token in held["added_tokens"]:
        token["special"] = token["content"] not in marks
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(held)), bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        mask_token="<mask>", clean_up_tokenization_spaces=False,
    )  # fmt: skip


def new_vocabulary(
    model: Any, processor: Any, texts: Iterable[str], size: int = 4096, marks: Sequence[str] = ()
) -> Any:
    """Gives a model a byte-level vocabulary made for `texts`, in place, and returns the processor that goes with it.

        processor = mm.new_vocabulary(model, processor, captions, size=4096)

    Args:
        model: any head of MM with one vocabulary.
        processor: its MMProcessor; it stays as it is.
        texts: what the model is to write or read next; a few thousand are enough for as many pieces.
        size: pieces at most; fewer where the texts have no more. The model grows or shrinks by a row of its
            embeddings for each.
        marks: further tokens that are never split and that a prompt may hold, such as "<de>".

    Raises: ValueError for a model whose vocabulary has places for pictures or sounds, or a second one; a size that is
        too small; texts that are empty.
    """
    check_processor(processor)
    for name, value in (("texts", texts), ("marks", marks)):
        if isinstance(value, (str, Mapping)) or not isinstance(value, Iterable):
            raise TypeError(f"{name} is a list of texts; got {type(value).__name__}")
    config, old = model.config, processor.tokenizer
    _check(config, processor)
    held = list(texts)
    if not any(held):
        raise ValueError("texts: all are empty; a vocabulary is made of words")
    tokenizer = byte_tokenizer(held, size, marks)
    tokenizer.model_max_length = old.model_max_length
    shares = _spelled(tokenizer, old, config.text_config)
    table, head = model.get_input_embeddings().weight.detach().clone(), getattr(model, "lm_head", None)
    untied = (
        None if head is None or head.weight is model.get_input_embeddings().weight else head.weight.detach().clone()
    )
    bias = None if head is None or head.bias is None else head.bias.detach().clone()

    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(_means(table, shares))
        if untied is not None:
            model.lm_head.weight.copy_(_means(untied, shares))
        if bias is not None:
            model.lm_head.bias.copy_(_means(bias[:, None], shares)[:, 0])
    ids = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
    for settings in (config.text_config, getattr(model, "generation_config", None)):
        for name, value in ids.items() if settings is not None else ():
            setattr(settings, name, value)
    embedding = model.get_input_embeddings()
    if isinstance(embedding, nn.Embedding) and embedding.padding_idx is not None:
        embedding.padding_idx = PAD
    made = copy.copy(processor)
    made.tokenizer = tokenizer
    return made


def _check(config: Any, processor: Any) -> None:
    two = config.text_encoder_config is not None and not config.share_text_encoder
    faults = {
        "it draws, and the codes of pictures stand in its vocabulary": config.draws,
        "pictures have places in its texts": config.media_in_text,
        "it has a text encoder with a vocabulary of its own": two,
        "its processor has no tokenizer": processor.tokenizer is None,
        "it asks for languages and times by tokens": getattr(processor.tokenizer, "prefix_tokens", None) is not None,
    }
    found = [words for words, holds in faults.items() if holds]
    if found:
        raise ValueError(f"the model keeps its vocabulary: {'; '.join(found)}")


def _spelled(tokenizer: Any, old: Any, text_config: Any) -> list[list[int]]:
    """For each new piece the old ids that it is spelled with; none for parts of letters and what is new."""
    ends = {PAD: text_config.pad_token_id, BOS: text_config.bos_token_id, EOS: text_config.eos_token_id}
    found: list[list[int]] = []
    for number, piece in enumerate(tokenizer.convert_ids_to_tokens(range(len(tokenizer)))):
        if number in ends:
            end = ends[number]
            found.append([end] if isinstance(end, int) else list(end or ()))
            continue
        is_special = number in tokenizer.added_tokens_decoder
        words = "" if is_special else tokenizer.convert_tokens_to_string([piece]).strip()
        ids = [] if "\ufffd" in words else old(words, add_special_tokens=False).input_ids if words else []
        found.append([one for one in ids if one != old.unk_token_id])
    return found


def _means(table: torch.Tensor, shares: list[list[int]]) -> torch.Tensor:
    """(V, D): the mean of the rows that each piece has a share in, or of all rows where it has none."""
    everything = table.mean(0)
    return torch.stack([table[ids].mean(0) if ids else everything for ids in shares])
