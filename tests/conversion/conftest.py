"""Published models to convert: the installed classes with random weights, as they are saved."""

# Fixtures build models whose types pyright cannot follow.

import copy
import importlib
import sys
import types
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import BertTokenizer, BlipConfig, GenerationMixin, PreTrainedTokenizerFast
from transformers.configuration_utils import PreTrainedConfig
from transformers.core_model_loading import revert_weight_conversion
from transformers.modeling_outputs import CausalLMOutput
from transformers.modeling_utils import PreTrainedModel

import originals
from mm.conversion_scripts.engine import FAMILIES
from mm.weights.checkpoint import Checkpoint

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a the red blue cat dog on mat what is how many of picture two . ?".split()
STUBBED = {  # names that open_clip imports and CoCa does not call
    "torchvision": [],
    "torchvision.transforms": [
        "Normalize", "Compose", "RandomResizedCrop", "InterpolationMode", "ToTensor", "Resize", "CenterCrop",
        "ColorJitter", "Grayscale",
    ],
    "torchvision.transforms.functional": [],
    "torchvision.ops": [],
    "torchvision.ops.misc": ["FrozenBatchNorm2d"],
    "ftfy": [],
}  # fmt: skip
# BLIP's usual shape and an odd one: other widths, heads, vocabulary, patches, norms and smoothing, nothing tied.
BLIPS = {
    "usual": {
        "vision_config": {
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
            "image_size": 16, "patch_size": 8,
        },
        "image_text_hidden_size": 16,
        "text_config": {
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
            "vocab_size": 26, "max_position_embeddings": 24, "bos_token_id": 22, "eos_token_id": 2, "sep_token_id": 3,
            "pad_token_id": 0,
        },
    },
    "odd": {
        "vision_config": {
            "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 1, "num_attention_heads": 3,
            "image_size": 20, "patch_size": 6, "layer_norm_eps": 1e-3, "hidden_act": "relu",
        },
        "text_config": {
            "hidden_size": 40, "intermediate_size": 28, "num_hidden_layers": 3, "num_attention_heads": 5,
            "vocab_size": 26, "max_position_embeddings": 20, "bos_token_id": 22, "eos_token_id": 2, "sep_token_id": 3,
            "pad_token_id": 0, "layer_norm_eps": 1e-4, "label_smoothing": 0.1, "hidden_act": "gelu_new",
            "tie_word_embeddings": False,
        },
        "tie_word_embeddings": False,
        "image_text_hidden_size": 7,
    },
}  # fmt: skip
# Logits of the same weights in another order of operations.
TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-10}


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Weights under which every tensor counts: norms, biases, tokens and positions too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim == 1 and name.endswith("weight"):
                weight.copy_(1 + 0.2 * noise)
            elif weight.ndim > 1 and weight.shape[0] > 1:
                weight.copy_(noise * weight[0].numel() ** -0.5)
            else:
                weight.copy_(0.3 * noise)
        tie = getattr(model, "tie_weights", None)
        if tie is not None:
            tie()
    return model.eval()


@pytest.fixture
def peer() -> Callable[..., Any]:
    """`peer(class, config)`: the installed model with random weights, in evaluation mode."""

    def build(cls, config, seed: int = 0) -> Any:
        torch.manual_seed(seed)
        return randomised(cls(copy.deepcopy(config)), seed)  # models write into their configs

    return build


@pytest.fixture
def blip_config() -> Callable[..., BlipConfig]:
    """`blip_config(kind, answers=False)`: "usual" or "odd"; of one that answers, as its class wants it."""

    def build(kind: str, answers: bool = False) -> BlipConfig:
        settings = BLIPS[kind]
        if answers:  # Transformers' decoder reads question states of the picture's width
            settings = {**settings, "vision_config": {**settings["vision_config"], "num_attention_heads": 4}}
            settings["vision_config"]["hidden_size"] = settings["text_config"]["hidden_size"]
        return BlipConfig(**settings)

    return build


@pytest.fixture
def saved(tmp_path) -> Callable[..., Path]:
    """`saved(model, *parts)`: a directory with the model and its processor's parts, as published."""

    def save(model, *parts, name: str = "source") -> Path:
        directory = tmp_path / name
        model.save_pretrained(directory)
        for part in parts:
            part.save_pretrained(directory)
        return directory

    return save


@pytest.fixture
def tensors_of() -> Callable[[Path], dict[str, torch.Tensor]]:
    """The tensors of a directory's model.safetensors."""
    return lambda directory: load_file(directory / "model.safetensors")


@pytest.fixture
def tokenizer(tmp_path) -> BertTokenizer:
    """A BERT tokenizer of few words; ids 0 to 4 are [PAD] [UNK] [CLS] [SEP] [MASK]."""
    file = tmp_path / "vocab.txt"
    file.write_text("\n".join(WORDS) + "\n")
    return BertTokenizer(str(file))


@pytest.fixture
def words_tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    """`words_tokenizer(**special)`: a tokenizer of SigLIP's kind."""

    def build(**special) -> PreTrainedTokenizerFast:
        """Words, closed with </s> and opened with nothing; padded with </s> to 64, as SigLIP's sentences are."""
        vocabulary = {word: number for number, word in enumerate("<unk> </s> <bos> a red dog mat".split())}
        inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
        return PreTrainedTokenizerFast(
            tokenizer_object=inner, unk_token="<unk>", eos_token="</s>", pad_token="</s>", model_max_length=64,
            model_input_names=["input_ids"], **special,
        )  # fmt: skip

    return build


@pytest.fixture
def assert_close() -> Callable[..., None]:
    """`assert_close(ours, theirs)`: equal within the tolerance of their dtype."""

    def check(ours: torch.Tensor, theirs: torch.Tensor) -> None:
        assert ours.shape == theirs.shape
        assert (ours - theirs).detach().abs().max() <= TOLERANCES[ours.dtype] * max(
            1.0, float(theirs.detach().abs().max())
        )

    return check


@pytest.fixture
def original_names() -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    """`original_names(tensors)`: a BLIP of Transformers as a file of the original code, whose ViT is timm's."""

    def rename(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        swaps = (
            ("vision_model.embeddings.class_embedding", "visual_encoder.cls_token"),
            ("vision_model.embeddings.position_embedding", "visual_encoder.pos_embed"),
            ("vision_model.embeddings.patch_embedding", "visual_encoder.patch_embed.proj"),
            ("vision_model.post_layernorm", "visual_encoder.norm"),
            ("vision_model.encoder.layers", "visual_encoder.blocks"),
            ("layer_norm", "norm"), ("self_attn.projection", "attn.proj"), ("self_attn.qkv", "attn.qkv"),
        )  # fmt: skip
        renamed = {}
        for name, tensor in tensors.items():
            for old, new in swaps:
                name = name.replace(old, new)
            renamed[name] = tensor
        if "text_decoder.cls.predictions.bias" not in renamed:  # it only reads
            return renamed
        positions = renamed["text_decoder.bert.embeddings.position_embeddings.weight"]
        renamed["text_decoder.bert.embeddings.position_ids"] = torch.arange(len(positions))[None]
        renamed["text_decoder.cls.predictions.decoder.weight"] = renamed[
            "text_decoder.bert.embeddings.word_embeddings.weight"
        ]
        renamed["text_decoder.cls.predictions.decoder.bias"] = renamed["text_decoder.cls.predictions.bias"]
        return renamed

    return rename


@pytest.fixture
def states_of() -> Callable[..., list[torch.Tensor]]:
    """`states_of(modules, run)`: what each of the modules gave when `run` called it last."""

    def watch(modules, run: Callable[[], Any]) -> list[torch.Tensor]:
        found: dict[int, torch.Tensor] = {}

        def keep(place: int):
            return lambda module, given, out: found.update({place: out[0] if isinstance(out, tuple) else out})

        hooks = [module.register_forward_hook(keep(place)) for place, module in enumerate(modules)]
        try:
            run()
        finally:
            for hook in hooks:
                hook.remove()
        assert len(found) == len(hooks)
        return [found[place] for place in range(len(hooks))]

    return watch


@pytest.fixture
def assert_gradients(tmp_path) -> Callable[..., None]:
    """`assert_gradients(theirs, ours, source, family, apart)`: equal for every tensor of theirs, by its name on disk.

    In fp64, 1e-10 relative. `apart`: ends of names of tensors that a conversion adds to others. Overwrites theirs.
    """

    def check(theirs, ours, source: Path, family: str, apart: tuple[str, ...] = ()) -> None:
        table = FAMILIES[family].plan(Checkpoint(source)).table
        grads = {key: value.grad for key, value in ours.named_parameters() if value.grad is not None}
        here = table.restore(revert_weight_conversion(ours, grads))
        with torch.no_grad():
            for weight in theirs.parameters():
                weight.copy_(torch.zeros_like(weight) if weight.grad is None else weight.grad)
        if isinstance(theirs, PreTrainedModel):
            theirs.save_pretrained(tmp_path / "gradients")
            there = load_file(tmp_path / "gradients/model.safetensors")
        else:
            there = theirs.state_dict()
        assert here.keys() <= there.keys() and any(gradient.any() for gradient in there.values())
        for name, gradient in there.items():
            if not name.endswith(apart or ("/",)):
                error = (here.get(name, torch.zeros_like(gradient)) - gradient).abs().max()
                assert error <= 1e-10 * max(gradient.abs().max(), 1e-3), name

    return check


@pytest.fixture
def assert_prompts_alone() -> Callable[..., None]:
    """`check(ours, prompts, given, alone_there, pad, **settings)`: prompts of unequal length, each as alone.

    `alone_there(row)` is what theirs writes behind one prompt, alone, since several disturb each other there.
    """

    def check(
        ours, prompts: list[list[int]], given: dict[str, torch.Tensor], alone_there, pad: int = 0, **settings
    ) -> None:
        longest = max(map(len, prompts))
        ids = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        together = ours.generate(input_ids=ids, attention_mask=mask, **given, **settings)
        for row, prompt in enumerate(prompts):
            one = {name: value[row : row + 1] for name, value in given.items()}
            alone = ours.generate(input_ids=torch.tensor([prompt]), **one, **settings)[0, len(prompt) :].tolist()
            written = together[row, longest:].tolist()
            assert written[: len(alone)] == alone and set(written[len(alone) :]) <= {pad}
            assert alone_there(row).tolist() == alone

    return check


# ---- originals that are fetched, and do not write by themselves ----------------------------------------------------


class Writer(PreTrainedModel, GenerationMixin):
    """Any function of rows (R, T) to logits (R, T, V), as something that Transformers' generate() writes with."""

    config_class = PreTrainedConfig

    def __init__(self, config: PreTrainedConfig, logits_of: Callable[[torch.Tensor], torch.Tensor]):
        super().__init__(config)
        self.logits_of, self.nothing = logits_of, nn.Parameter(torch.zeros(()))

    def forward(self, input_ids, attention_mask=None, **kwargs) -> CausalLMOutput:
        return CausalLMOutput(logits=self.logits_of(input_ids))

    def prepare_inputs_for_generation(self, input_ids, attention_mask=None, **kwargs) -> dict[str, torch.Tensor]:
        return {"input_ids": input_ids}


@pytest.fixture
def written_by() -> Callable[..., torch.Tensor]:
    """`written_by(logits_of, rows, vocab_size, **settings)`: generate() over an original's plain logits, no cache."""

    def write(logits_of, rows: torch.Tensor, vocab_size: int, **settings) -> torch.Tensor:
        writer = Writer(PreTrainedConfig(vocab_size=vocab_size), logits_of)
        return writer.generate(rows, attention_mask=torch.ones_like(rows), use_cache=False, **settings)

    return write


@contextmanager
def stand_ins(folder: Path, stubs: dict[str, types.ModuleType]) -> Iterator[None]:
    """`folder` to import from, and modules in the place of what is not there."""
    before = {name: sys.modules.get(name) for name in stubs}
    sys.modules.update(stubs)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name, module in before.items():
            sys.modules.pop(name) if module is None else sys.modules.__setitem__(name, module)


@pytest.fixture(scope="session")
def open_flamingo() -> types.ModuleType:
    """`open_flamingo.src.flamingo`, with an empty module in the place of open_clip."""
    with stand_ins(originals.folder(originals.OPEN_FLAMINGO), {"open_clip": types.ModuleType("open_clip")}):
        importlib.import_module("open_flamingo")
        return importlib.import_module("open_flamingo.src.flamingo")


@pytest.fixture(scope="session")
def open_clip() -> types.ModuleType:
    """`open_clip.coca_model`, with empty modules in the place of what it imports beside torch.

    ftfy's mending is but its NFC, which is all it does to texts that are not broken.
    """
    stubs = {name: types.ModuleType(name) for name in STUBBED}
    for name, members in STUBBED.items():
        for member in members:
            setattr(stubs[name], member, MagicMock())
    stubs["ftfy"].fix_text = lambda text: unicodedata.normalize("NFC", text)
    with stand_ins(originals.folder(originals.OPEN_CLIP), stubs):
        return importlib.import_module("open_clip.coca_model")


@pytest.fixture(scope="session")
def character_tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    """`character_tokenizer(words, special)`: the words numbered in their order, of which texts find single characters,
    then the special tokens. Padded at the left, as processors of models with media in their text are."""

    def build(words: Sequence[str], special: Sequence[str]) -> PreTrainedTokenizerFast:
        numbered = {word: number for number, word in enumerate(words)}
        inner = Tokenizer(models.WordLevel(numbered, unk_token="<unk>"))
        inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
        ends = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
        made = PreTrainedTokenizerFast(tokenizer_object=inner, padding_side="left", **ends)
        made.add_special_tokens({"additional_special_tokens": list(special)})
        return made

    return build
