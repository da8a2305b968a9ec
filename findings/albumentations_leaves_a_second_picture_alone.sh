#!/bin/sh
# albumentations 2.0.8: a key of a call that Compose does not know comes back as it went in, and nothing is said. Of a pair
# of pictures image and image2 the first is flipped and the second is not; so are "depth" and a "Mask" beside a flipped
# picture. Compose(strict=True) refuses such a call, and additional_targets={"image2": "image"} flips both.
# Guess before it was run: ValueError.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q albumentations==2.0.8 numpy==2.4.6
NO_ALBUMENTATIONS_UPDATE=1 "$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import albumentations
import numpy as np

assert version("albumentations") == "2.0.8"
picture = np.arange(64 * 64 * 3, dtype=np.uint32).astype(np.uint8).reshape(64, 64, 3)


def flipped(key, value, **settings):
    both = albumentations.Compose([albumentations.HorizontalFlip(p=1)], **settings)(image=picture, **{key: value})
    assert (both["image"] == picture[:, ::-1]).all()
    answer = bool((both[key] == value[:, ::-1]).all())
    print(f"{key} with {settings}:", "flipped as image is" if answer else "as it was, beside a flipped image")
    assert answer or (both[key] == value).all()
    return answer


assert not flipped("image2", picture), "the behaviour changed"
assert not flipped("depth", picture[..., 0]), "the behaviour changed"
assert not flipped("Mask", picture[..., 0]), "the behaviour changed"
assert flipped("mask", picture[..., 0])
try:
    flipped("image2", picture, strict=True)
except ValueError as fault:
    print("image2 with strict=True:", fault)
else:
    raise AssertionError("strict=True said nothing")
assert flipped("image2", picture, additional_targets={"image2": "image"})
PY
