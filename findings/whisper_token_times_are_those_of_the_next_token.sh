#!/bin/sh
# transformers 5.23.0: generate(return_token_timestamps=True) of a Whisper gives each token the time that the query behind
# it reads, which writes the next token; from the second token on word times are one token late. OpenAI's program takes
# the query that writes the token (its rows begin at <|notimestamps|>). Guess before it was run: as OpenAI's program. Here
# the model reads .1 s further for each word that it writes. Needs a Python with torch and transformers (PYTHON=...).
set -eu
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error "${PYTHON:-python3}" -W ignore - <<'PY'
import torch
import transformers
from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration

transformers.logging.set_verbosity_error()
WORDS, WIDTH, MOMENTS, PROMPT = 8, 32, 50, 4  # the prompt: start, language, task, no timestamps
model = WhisperForConditionalGeneration(WhisperConfig(
    vocab_size=40, d_model=WIDTH, encoder_layers=1, decoder_layers=1, encoder_attention_heads=1, num_mel_bins=8,
    decoder_attention_heads=1, encoder_ffn_dim=8, decoder_ffn_dim=8, max_source_positions=MOMENTS, pad_token_id=0,
    max_target_positions=32, bos_token_id=0, eos_token_id=0, decoder_start_token_id=1, begin_suppress_tokens=None,
    median_filter_width=1, tie_word_embeddings=False,
)).eval()
model.generation_config = GenerationConfig(
    decoder_start_token_id=1, eos_token_id=0, pad_token_id=0, bos_token_id=0, is_multilingual=True, max_length=40,
    lang_to_id={"<|en|>": 2}, task_to_id={"transcribe": 3}, no_timestamps_token_id=39, alignment_heads=[[0, 0]],
    suppress_tokens=[0, 1, 2, 3, 4], return_timestamps=False,
)
place, noise = torch.eye(WIDTH), torch.Generator().manual_seed(0)
with torch.no_grad():
    for name, weight in model.named_parameters():
        weight.fill_(float(name.endswith("norm.weight")))
    model.model.encoder.embed_positions.weight.copy_(place[torch.arange(MOMENTS) // 5])  # moment s is of word s // 5
    model.model.decoder.embed_positions.weight.copy_(place)
    attention = model.model.decoder.layers[0].encoder_attn
    attention.k_proj.weight.copy_(place)
    far = 0.02 * torch.randn(WIDTH, WIDTH, generator=noise)
    attention.q_proj.weight.copy_(place.roll(1 - PROMPT, 0) + far)  # the query that writes word j reads its moments
out = model.generate(
    torch.zeros(1, 8, 2 * MOMENTS), language="en", task="transcribe", return_token_timestamps=True,
    max_new_tokens=WORDS, return_dict_in_generate=True, output_attentions=True,
)
steps = [step[0][0, 0] for step in out["cross_attentions"]]  # of each step (queries, moments)
read = [0.02 * int(step[-1].argmax()) for step in steps]
told = out["token_timestamps"][0, PROMPT:].tolist()
print("read by the query that writes each word:", [round(time, 2) for time in read])
print("token_timestamps                       :", [round(time, 2) for time in told])
assert [round(50 * time) for time in read] == [5 * word for word in range(WORDS)], "the planted model reads otherwise"
late = [abs(told[word] - read[min(word + 1, WORDS - 1)]) < 1e-6 for word in range(1, WORDS)]
assert all(late) and abs(told[1] - read[1]) > 0.09, "the behaviour changed"
PY
