"""Whisper in openai-whisper's own file: sizes, names, special ids and the tokenizer, and what is refused."""

import base64
from itertools import product

import pytest
import torch
from transformers import WhisperForConditionalGeneration

from mm import convert
from mm.cli.convert import run
from mm.conversion_scripts.whisper_original import tokenizer_of_pieces
from whispers import whisper_config

EOT = 50257
PARTS = {
    "layers": "blocks", "self_attn": "attn", "encoder_attn": "cross_attn", "q_proj": "query", "k_proj": "key",
    "v_proj": "value", "out_proj": "out", "self_attn_layer_norm": "attn_ln", "final_layer_norm": "mlp_ln",
    "encoder_attn_layer_norm": "cross_attn_ln", "fc1": "mlp.0", "fc2": "mlp.2", "embed_tokens": "token_embedding",
}  # fmt: skip


def of_openai(name: str) -> str:
    parts = [PARTS.get(part, part) for part in name.removeprefix("model.").split(".")]
    if parts[1] == "layer_norm":
        parts[1] = "ln_post" if parts[0] == "encoder" else "ln"
    return ".".join(parts).replace("embed_positions.weight", "positional_embedding")


@pytest.fixture
def original(peer, tmp_path):
    """`original(vocabulary, **sizes)`: a Whisper of Transformers, and its file in openai's layout."""

    def made(vocabulary: int, **sizes):
        theirs = peer(WhisperForConditionalGeneration, whisper_config(vocab_size=vocabulary, **sizes)).float().eval()
        own = {name: tensor for name, tensor in theirs.state_dict().items() if name != "proj_out.weight"}
        dims = {"n_audio_head": 4, "n_text_head": 4}
        torch.save({"dims": dims, "model_state_dict": {of_openai(name): own[name] for name in own}}, tmp_path / "w.pt")
        return theirs, tmp_path / "w.pt"

    return made


@torch.no_grad()
@pytest.mark.parametrize("vocabulary", [51865, pytest.param(51864, marks=pytest.mark.slow)])
def test_a_file_of_openai_gives_the_same_model_with_its_special_ids(vocabulary, original, assert_close):
    theirs, file = original(vocabulary)
    done = convert(file)
    sounds = torch.randn(2, 12, 100, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[50258, 7, 9], [50258, 400, 3]])
    assert_close(done.model(ids, input_features=sounds[:, None]).logits, theirs(sounds, decoder_input_ids=ids).logits)
    decoding, many = done.model.generation_config, vocabulary == 51865
    assert decoding.decoder_start_token_id == 50257 + many and decoding.no_timestamps_token_id == 50362 + many
    assert decoding.eos_token_id == 50256 + many and decoding.prev_sot_token_id == 50360 + many
    assert bool(getattr(decoding, "lang_to_id", None)) == many
    if many:
        assert decoding.lang_to_id["<|fr|>"] == 50265 and decoding.task_to_id == {
            "translate": 50358,
            "transcribe": 50359,
        }
    extractor = done.processor.feature_extractor
    assert (extractor.feature_size, extractor.nb_max_frames) == (12, 100)
    assert any("alignment heads" in line for line in done.report)


@pytest.mark.slow
def test_it_is_verified_and_goes_back_into_the_layout_of_transformers(original, tmp_path):
    theirs, file = original(51866)
    report = run(str(file), str(tmp_path / "mm"), compare=True)
    report += run(str(tmp_path / "mm"), str(tmp_path / "back"), to="whisper", compare=True)
    assert sum("verified: logits" in line for line in report) == 2
    again = WhisperForConditionalGeneration.from_pretrained(tmp_path / "back")
    assert all(torch.equal(tensor, theirs.state_dict()[name]) for name, tensor in again.state_dict().items())


def test_other_vocabularies_and_heads_are_refused_in_words(original, tmp_path):
    with pytest.raises(ValueError, match=r"vocabulary has 400 tokens.*51864"):
        convert(original(400)[1])
    _, file = original(51865)
    held = torch.load(file)
    held["dims"]["n_text_head"] = 5
    torch.save(held, tmp_path / "heads.pt")
    with pytest.raises(ValueError, match=r"(?s)heads.*32 is no multiple of 5"):
        convert(tmp_path / "heads.pt")


def test_the_tokenizer_joins_pieces_as_their_list_is_ordered(tmp_path):
    pairs = (bytes(pair) for pair in product(range(32, 127), range(256)))
    pieces = [
        *(bytes([byte]) for byte in range(256)),
        b"the",
        *pairs,
        *(bytes([255, n % 256, n // 256]) for n in range(60000)),
    ]
    pieces = list(dict.fromkeys(pieces))[:EOT]
    lines = (f"{base64.b64encode(piece).decode()} {rank}\n" for rank, piece in enumerate(pieces))
    (tmp_path / "list.tiktoken").write_text("".join(lines), encoding="utf-8")
    tokenizer = tokenizer_of_pieces(tmp_path / "list.tiktoken", 51865)
    ranks = {piece: rank for rank, piece in enumerate(pieces)}
    for text in ("ab", "a bc", "é"):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text
    assert tokenizer("ab", add_special_tokens=False).input_ids == [ranks[b"ab"]]
    assert tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|startoftranscript|>", "<|0.00|>"]) == [
        50257,
        50258,
        50364,
    ]
    tokenizer.set_prefix_tokens(language="french", task="transcribe")
    assert tokenizer("a").input_ids == [50258, 50265, 50359, 50363, ranks[b"a"], 50257]
