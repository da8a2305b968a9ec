#!/bin/sh
# transformers 5.23.0: the loss of ClapModel compares each text with all sounds twice, and no sound with the texts. Its
# second half takes logits_per_audio.t(), which are texts in rows again, only with the other scale. So a batch in which
# one sound is close to every text costs as much as one where each is close to its own. Guess before it was run: the mean
# of both directions, as CLIPModel's loss of the same embeddings. Needs a Python with torch and transformers (PYTHON=...).
set -eu
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error "${PYTHON:-python3}" -W ignore - <<'PY'
import torch
from torch.nn.functional import cross_entropy
from transformers import ClapConfig, ClapModel

torch.manual_seed(0)
text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 40}
audio = {"num_mel_bins": 8, "spec_size": 32, "patch_embeds_hidden_size": 8, "depths": [1, 1], "num_attention_heads": [2, 2],
         "hidden_size": 16, "window_size": 4}
config = ClapConfig(text_config={**text, "initializer_factor": 3.0}, audio_config=audio, projection_dim=8)
model = ClapModel(config).eval()
ids, sounds = torch.randint(3, 40, (4, 6)), torch.randn(4, 1, 128, 8)
with torch.no_grad():
    for weight in model.parameters():
        weight.add_(0.3 * torch.randn_like(weight))
    out = model(input_ids=ids, input_features=sounds, return_loss=True)
own = torch.arange(4)
to_sounds, to_texts = cross_entropy(out.logits_per_text, own), cross_entropy(out.logits_per_audio, own)
again = cross_entropy(out.logits_per_audio.t(), own)
print(f"texts with sounds {to_sounds:.4f}, sounds with texts {to_texts:.4f}, mean {(to_sounds + to_texts) / 2:.4f}")
print(f"loss {out.loss:.4f}, texts with sounds by both scales {(to_sounds + again) / 2:.4f}")
assert abs(out.loss - (to_sounds + again) / 2) < 1e-5, "the behaviour changed"
assert abs(out.loss - (to_sounds + to_texts) / 2) > 1e-3, "the behaviour changed"
PY
