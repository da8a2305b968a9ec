"""What must be set before anything else is imported, then the fixtures that several files share."""

import os
import sys

# Read when a Triton kernel is defined: tests run the kernels on the CPU, those that `-m gpu` asks for on a GPU.
os.environ.setdefault("TRITON_INTERPRET", "0" if "gpu" in sys.argv else "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when huggingface_hub is imported: no test needs the network
os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported: workers run side by side

import importlib.util  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from pathlib import Path  # noqa: E402
from types import ModuleType  # noqa: E402
from typing import Any  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402
from transformers import BertTokenizer  # noqa: E402
from transformers.utils import logging  # noqa: E402

from mm import (  # noqa: E402
    MMConfig,
    MMForConditionalGeneration,
    MMForImageTextRetrieval,
    MMImageProcessorPil,
    MMProcessor,
)

torch.set_num_threads(1)

FINDER_WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a photo of red blue cat dog find :".split()


def beside_the_tests(name: str) -> ModuleType:
    """A module of this folder that is no test, imported by that name from now on: pytest's importlib mode puts the
    folder on no path."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


for _name in (
    "comparing",
    "hub_repositories",
    "hub_routes",
    "hub_server",
    "hub_user",
    "originals",
    "other_cpu",
    "published",
    "published_chats",
    "served",
    "small_drawer",
    "small_trainer",
    "speakers",
    "whispers",
    "written_shards",
    "weight_files",
):
    beside_the_tests(_name)


# Triton is for Linux alone. There its tests are never left out: where it is missing, they fail.
if sys.platform != "linux" and importlib.util.find_spec("triton") is None:
    collect_ignore = [
        "gpu",
        "kernels",
        "test_cli_tune.py",
        "test_kernel_static.py",
        "modeling_mm/core/test_triton_attention.py",
    ]


@pytest.fixture(autouse=True)
def verbosity() -> Iterator[None]:
    """What Transformers logs stays as it is for the next test: benchmarks, which some tests run, silence it."""
    before = logging.get_verbosity()
    yield
    logging.set_verbosity(before)


def pytest_collection_modifyitems(items):
    if sys.platform != "linux":
        for item in items:
            if item.get_closest_marker("linux"):
                item.add_marker(pytest.mark.skip(reason=f"needs Linux, this is {sys.platform}"))


def pytest_addoption(parser):
    parser.addoption("--other-cpu", action="store_true", help="matrix products round as on some other CPU")
    parser.addoption("--weights-at", type=int, choices=(0, 8), help="where weights begin in a file, modulo 16")


def pytest_configure(config):
    if config.getoption("--other-cpu"):
        config.pluginmanager.register(sys.modules["other_cpu"])
    sys.modules["weight_files"].install(config.getoption("--weights-at"))


VISIONS = {
    "vit": {
        "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16,
        "patch_size": 8, "num_register_tokens": 1, "initializer_range": 0.1,
    },
    "conv": {
        "model_type": "mm_conv", "image_size": 16, "stem": {"channels": 8, "kernel_size": 3, "stride": 2},
        "stages": [
            {"block": "inverted", "depth": 2, "channels": 8, "stride": 2, "expansion": 2},
            {"block": "inverted", "depth": 1, "channels": 12, "stride": 2, "expansion": 3},
        ],
        "head_channels": 20, "hidden_act": "relu6", "initializer_range": 0.1,
    },
}  # fmt: skip

_TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 50,
    "max_position_embeddings": 32, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.15,
}  # fmt: skip
# The decoder's shapes: BERT's (post-norm, cross inside), Flamingo's (gated [cross, mlp] layers of their own, the first
# layer too), a Llama-like one (pre-norm RMSNorm, RoPE, gated MLP, grouped queries, query and key norms, other heads in
# cross-attention), and one like Gemma's (norms on both sides, capped scores, a layer with a window and own angles).
TEXTS = {
    "inside": {**_TEXT, "type_vocab_size": 2},
    "own": {
        **_TEXT, "num_hidden_layers": 4, "cross_attention_layers": [0, 2], "cross_attention_placement": "own",
        "cross_attention_gate": "tanh", "norm_position": "pre", "embedding_norm": False, "final_norm": "all",
    },
    "llama": {
        **_TEXT, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "norm_type": "rms_norm",
        "norm_position": "pre", "final_norm": "all", "embedding_norm": False, "gated_mlp": True, "mlp_bias": False,
        "hidden_act": "silu", "attention_bias": "qv", "qk_norm": "rms_norm", "cross_attention_qk_norm": "layer_norm",
        "cross_attention_memory_norm": True, "cross_attention_gate": "tanh_vector", "cross_attention_hidden_size": 28,
        "cross_attention_layers": [1], "position_embedding_type": "rope",
        "cross_attention_overrides": {"num_attention_heads": 2, "num_key_value_heads": 1, "attention_bias": "qo"},
    },
    "windows": {
        **_TEXT, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "norm_type": "rms_norm_from_one",
        "norm_position": "both", "final_norm": "all", "embedding_norm": False, "gated_mlp": True, "mlp_bias": False,
        "attention_bias": False, "qk_norm": "rms_norm_from_one", "position_embedding_type": "rope",
        "attn_logit_softcapping": 1.5, "local_attention_layers": [0], "local_attention_window": 2,
        "local_rope_theta": 20.0,
    },
}  # fmt: skip

# A text encoder of the decoder's width, and audio towers of Transformers; what they take is in the `clips` fixture.
ENCODER = {**_TEXT, "num_hidden_layers": 1, "max_position_embeddings": 16}
AUDIOS = {
    "ast": {
        "model_type": "audio-spectrogram-transformer", "hidden_size": 20, "intermediate_size": 24,
        "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 4, "frequency_stride": 4, "time_stride": 4,
        "max_length": 12, "num_mel_bins": 8, "initializer_range": 0.1,
    },
    "whisper": {
        "model_type": "whisper", "d_model": 20, "encoder_layers": 1, "encoder_attention_heads": 2,
        "encoder_ffn_dim": 24, "num_mel_bins": 12, "max_source_positions": 4, "decoder_layers": 1,
        "decoder_attention_heads": 2, "decoder_ffn_dim": 24, "vocab_size": 20, "pad_token_id": 0, "bos_token_id": 1,
        "eos_token_id": 2, "decoder_start_token_id": 1,
    },
}  # fmt: skip


def build_config(vision: str = "vit", text: str = "inside", **fields) -> MMConfig:
    """A tiny MMConfig; `vision_config` and `text_config` among the fields change single settings of those, and
    `audio_config` may be a name of AUDIOS, `text_encoder_config` "tiny"."""
    vision_config = {**VISIONS[vision], **fields.pop("vision_config", {})}
    text_config = {**TEXTS[text], **fields.pop("text_config", {})}
    if isinstance(fields.get("audio_config"), str):
        fields["audio_config"] = AUDIOS[fields["audio_config"]]
    if isinstance(fields.get("text_encoder_config"), str):
        fields["text_encoder_config"] = ENCODER
    if not {"image", "video"} & set(fields.get("modalities", ["image"])):
        return MMConfig(**{"initializer_range": 0.3, **fields, "text_config": text_config})
    return MMConfig(**{"initializer_range": 0.3, **fields, "vision_config": vision_config, "text_config": text_config})


def make_visible(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Moves every vector (biases, norms, closed gates, running statistics) off its neutral initial value, and makes
    pictures count for more, so that no fault hides behind a small weight."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if value.ndim == 1 and value.is_floating_point() and not name.endswith("inv_freq"):
            noise = torch.rand(value.shape, generator=generator).to(value) - 0.5
            value.data = value.data + noise * (1.0 if name.endswith("running_var") else 0.6)
            value.data = value.data + (0.7 if name.endswith("_gate") else 0.0)
        elif "patch_embedding" in name:
            value.data = 1.5 * value.data
        elif "cross_attn" in name:
            value.data = 2.0 * value.data
    return model


@pytest.fixture(scope="session")
def tiny_config() -> Callable[..., MMConfig]:
    """`tiny_config(vision, text, **fields)`; see build_config."""
    return build_config


@pytest.fixture(scope="session")
def visible() -> Callable[..., torch.nn.Module]:
    """`visible(model)`: see make_visible."""
    return make_visible


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., torch.nn.Module]:
    """`tiny_model(vision, text, cls=..., dtype=..., attention=..., **fields)`: a new model in eval mode."""

    def build(
        vision="vit", text="inside", cls=MMForConditionalGeneration, dtype=torch.float64, attention=None, **fields
    ):
        torch.manual_seed(0)
        model = cls._from_config(build_config(vision, text, **fields), attn_implementation=attention)
        return make_visible(model).to(dtype).eval()

    return build


@pytest.fixture(scope="session")
def torchao() -> Path:
    """The folder that torchao is in: Transformers imports it wherever it is installed, so it is kept apart."""
    folder = Path(__file__).resolve().parents[1] / "build" / "torchao-0.18.0"
    if not folder.exists():
        raise FileNotFoundError(f"{folder} is not there; `make test-slow` fetches it")
    return folder


@pytest.fixture(scope="session")
def retriever(tiny_model) -> Callable[..., MMForImageTextRetrieval]:
    """`retriever(fusion, **fields)`: a new model with a text that sees both ways and embeddings of width 12."""

    def build(fusion="cross_attention", **fields):
        mask = {"fusion_mask": "bidirectional"} if fusion == "merged" else {}
        text = {"is_causal": False, "pooler": "mean", **fields.pop("text_config", {})}
        settings = {"projection_dim": 12, "fusion_type": fusion, "text_config": text, **mask, **fields}
        return tiny_model(cls=MMForImageTextRetrieval, **settings)

    return build


@pytest.fixture(scope="session")
def saved_retriever(retriever) -> Callable[[Path], Path]:
    """`saved_retriever(folder)` saves a retrieval model of FINDER_WORDS, in fp32, and its processor there."""

    def save(folder: Path) -> Path:
        tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(FINDER_WORDS)})
        text = {"vocab_size": len(FINDER_WORDS), "bos_token_id": 2, "eos_token_id": 3}
        retriever(text_config=text, dtype=torch.float32).save_pretrained(folder)
        MMProcessor(MMImageProcessorPil(size={"height": 16, "width": 16}), tokenizer).save_pretrained(folder)
        return folder

    return save


@pytest.fixture(params=[0, 8], ids=["aligned", "not aligned"])
def data_begins(request, monkeypatch) -> int:
    """Weights saved in this test begin at an address that is this modulo 16; see weight_files.py."""
    monkeypatch.setattr(sys.modules["weight_files"], "REMAINDER", request.param)
    return request.param


def _random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def pictures() -> torch.Tensor:
    """Three contexts of two pictures each."""
    return _random(3, 2, 3, 16, 16, seed=0)


@pytest.fixture
def videos() -> torch.Tensor:
    """Three contexts of two videos of three frames each."""
    return _random(3, 2, 3, 3, 16, 16, seed=1)


@pytest.fixture
def clips() -> Callable[[str], torch.Tensor]:
    """Three contexts of two clips each, as the named audio tower of AUDIOS takes them."""
    return lambda tower: _random(3, 2, *{"ast": (12, 8), "whisper": (12, 8)}[tower], seed=2)


@pytest.fixture
def hub() -> Iterator[Any]:
    """A running HubServer of tests/hub_server.py; processes started with its `environment(home)` use it as the Hub."""
    with sys.modules["hub_server"].HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def ask(request, hub, tmp_path_factory) -> Iterator[Any]:
    """What a user's process answers (hub_user.py): USER of the test's module runs first. `hub` is the module's own."""
    home = hub.environment(tmp_path_factory.mktemp("home"))
    with sys.modules["hub_user"].HubUser(home, request.module.USER) as user:
        yield user


@pytest.fixture(scope="module")
def stranger(request, hub, tmp_path_factory) -> Iterator[Any]:
    """The same with a token that opens nothing."""
    token = sys.modules["hub_server"].STRANGERS_TOKEN
    home = hub.environment(tmp_path_factory.mktemp("strangers"), token)
    with sys.modules["hub_user"].HubUser(home, request.module.USER) as user:
        yield user


@pytest.fixture
def no_compiler():
    """Flex attention in its own plain version: the masks are the same, and no compiler runs."""
    torch.compiler.set_stance("force_eager")
    yield
    torch.compiler.set_stance("default")
