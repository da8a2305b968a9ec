"""A small model that draws squares of colour: 8 x 8 pixels, 4 x 4 codes, 27 codes."""

import torch
from PIL import Image
from transformers import AutoConfig, AutoModel, BertTokenizer, PreTrainedConfig, PreTrainedModel

import mm

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a red green blue white apple boat sun ,".split()
NAMES = [f"{colour} {thing}" for thing in ("apple", "boat") for colour in ("red", "green", "blue", "white")]


class SquaresConfig(PreTrainedConfig):
    model_type = "squares_of_colour"
    image_sides = (8, 8)


class Squares(PreTrainedModel):
    """Three levels of each colour, the mean of 2 x 2 pixels: exact on pictures of such squares."""

    config_class = SquaresConfig
    codebook_size, grid, tokens_per_image = 27, (4, 4), 16

    def __init__(self, config):
        super().__init__(config)
        self.place = torch.nn.Parameter(torch.tensor([9.0, 3.0, 1.0]), requires_grad=False)
        self.post_init()

    def _init_weights(self, module):
        pass

    def encode(self, pixel_values):
        levels = (torch.nn.functional.avg_pool2d(pixel_values, 2) * 2).round()  # (B, 3, 4, 4)
        return (levels * self.place[None, :, None, None]).sum(1).flatten(1).long()

    def decode(self, ids):
        levels = torch.stack([ids // 9, ids // 3 % 3, ids % 3], 1).float() / 2
        return levels.unflatten(2, (4, 4)).repeat_interleave(2, 2).repeat_interleave(2, 3)


AutoConfig.register("squares_of_colour", SquaresConfig, exist_ok=True)
AutoModel.register(SquaresConfig, Squares, exist_ok=True)


def squares(count: int, seed: int = 0) -> list[Image.Image]:
    """Pictures that Squares gives back exactly."""
    codes = torch.randint(0, 27, (count, 16), generator=torch.Generator().manual_seed(seed))
    pixels = (Squares(SquaresConfig()).decode(codes) * 255).round().to(torch.uint8)
    return [Image.fromarray(one.permute(1, 2, 0).contiguous().numpy()) for one in pixels]


def small_processor(**settings) -> mm.MMProcessor:
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)})
    given = {"tokenizer": tokenizer, "image_tokenizer": Squares(SquaresConfig()), "prompt_to": "context"}
    return mm.MMProcessor(**{**given, **settings})


def small_drawer(processor, cls=mm.MMForConditionalGeneration, seed=0, **fields):
    """A new model with a text encoder of its own and no media."""
    torch.manual_seed(seed)
    stack = {
        "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
        "norm_position": "pre", "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0, "initializer_range": 0.1,
    }  # fmt: skip
    text = {**stack, **fields.pop("text_config", {}), "is_causal": cls is not mm.MMForMaskedLM}
    given = {"modalities": [], "drawing": processor.drawing, "lm_head_transform": False, **fields}
    encoder = {**stack, "vocab_size": len(WORDS), "max_position_embeddings": 32}
    if not given.get("share_text_encoder"):
        given = {"text_encoder_config": encoder, **given}
    return cls(mm.MMConfig(text_config={"vocab_size": 44, **text}, **given)).eval()
