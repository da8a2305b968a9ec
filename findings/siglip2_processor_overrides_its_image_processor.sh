#!/bin/sh
# transformers 5.23.0: Siglip2Processor passes max_num_patches=256 and patch_size=16 to its image processor in each call,
# whatever that one was made or saved with. Guess before it was run: the image processor's own. Needs a Python with torch
# and transformers (PYTHON=...).
set -eu
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error "${PYTHON:-python3}" -W ignore - <<'PY'
from PIL import Image
from transformers import Siglip2ImageProcessorPil, Siglip2Processor, Siglip2Tokenizer

images = Siglip2ImageProcessorPil(patch_size=8, max_num_patches=64)
picture, both = Image.new("RGB", (64, 64)), Siglip2Processor(images, Siglip2Tokenizer())
shapes = [tuple(one(images=picture, return_tensors="pt")["pixel_values"].shape) for one in (images, both)]
print("the image processor:", shapes[0], "inside the processor:", shapes[1])
assert shapes == [(1, 64, 192), (1, 256, 768)], "the behaviour changed"
PY
