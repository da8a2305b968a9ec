"""A small speech model that is no Whisper, and its tokenizer of letters."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    MoonshineConfig,
    MoonshineForConditionalGeneration,
    PreTrainedTokenizerFast,
    Wav2Vec2FeatureExtractor,
)

from mm import convert

MOONSHINE = {
    "hidden_size": 48, "intermediate_size": 28, "encoder_num_hidden_layers": 1, "decoder_num_hidden_layers": 2,
    "encoder_num_attention_heads": 4, "decoder_num_attention_heads": 4, "max_position_embeddings": 30,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.9},
    "vocab_size": 40, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def letters() -> PreTrainedTokenizerFast:
    """40 ids: <pad>, <s>, </s>, <unk>, letters and digits."""
    names = ["<pad>", "<s>", "</s>", "<unk>", *(chr(ord("a") + number) for number in range(26)), *"0123456789"]
    made = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@torch.no_grad()
def saved_moonshine(folder: Path) -> Path:
    """The folder of a converted Moonshine that writes seven letters."""
    model = MoonshineForConditionalGeneration(MoonshineConfig(**MOONSHINE))
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        weight.copy_(noise * (0.3 if weight.ndim == 1 else 1.5 * weight[0].numel() ** -0.5))
        weight += weight.ndim == 1 and name.endswith("weight")
    model.tie_weights()
    model.generation_config.update(
        no_repeat_ngram_size=1, min_new_tokens=7, max_new_tokens=7, suppress_tokens=[0, 1, 3]
    )
    model.save_pretrained(folder / "source")
    Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True).save_pretrained(folder / "source")
    letters().save_pretrained(folder / "source")
    convert(folder / "source").save_pretrained(folder / "mm")
    return folder / "mm"
