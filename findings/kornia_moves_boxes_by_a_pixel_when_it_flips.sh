#!/bin/sh
# kornia 0.9.0: AugmentationSequential takes the corners of "bbox_xyxy" for pixels and not for edges: flipped in a picture
# of 100 pixels a box of 10 to 20 is 79 to 89 and not 80 to 90, and one of the whole picture is -1 to 99. The same box as
# "bbox_xywh" is right. Resize to half makes of it 4.95 to 9.90, and of the whole picture 0 to 49.49, so that a small box
# has an IoU of .82 with itself after one flip, and a box at the left edge lies partly outside. Flipped twice all is as
# before, so that such a test shows nothing. Needs a Python with torch (PYTHON=...); kornia is installed into a folder that
# is removed. Guess before it was run: 80 to 90.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=${PYTHON:-python3}
"$python" -m pip --disable-pip-version-check install -q --no-deps --target "$work/kornia" kornia==0.9.0 kornia-rs==0.2.0
PYTHONPATH="$work/kornia" "$python" -W ignore - <<'PY'
from importlib.metadata import version

import torch
from kornia.augmentation import AugmentationSequential, RandomHorizontalFlip, Resize

assert version("kornia") == "0.9.0"
picture = torch.rand(1, 3, 64, 100)
GIVEN = {
    "bbox_xyxy": torch.tensor([[[10.0, 5, 20, 15], [0, 0, 100, 64]]]),
    "bbox_xywh": torch.tensor([[[10.0, 5, 10, 10], [0, 0, 100, 64]]]),
}


def through(change, kind):
    with torch.no_grad():
        both = AugmentationSequential(change, data_keys=["input", kind])(picture, GIVEN[kind])
    return both[0], [[round(value, 2) for value in box] for box in both[1][0].tolist()]


flip = RandomHorizontalFlip(p=1)
for kind, wanted in {
    "bbox_xyxy": [[79, 5, 89, 15], [-1, 0, 99, 64]],
    "bbox_xywh": [[80, 5, 10, 10], [0, 0, 100, 64]],
}.items():
    flipped, boxes = through(flip, kind)
    print(f"{kind}: {GIVEN[kind][0].tolist()} flipped is {boxes}")
    assert torch.equal(flipped, picture.flip(-1))
    assert boxes == wanted, "the behaviour changed"
halved, boxes = through(Resize((32, 50)), "bbox_xyxy")
print(f"bbox_xyxy: {GIVEN['bbox_xyxy'][0].tolist()} at half the size is {boxes}")
assert tuple(halved.shape[-2:]) == (32, 50)
assert boxes[1][2] == 49.49 and boxes[0][0] == 4.95, "the behaviour changed"
PY
