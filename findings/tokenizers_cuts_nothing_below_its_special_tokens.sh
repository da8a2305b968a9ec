#!/bin/sh
# tokenizers 0.23.3: enable_truncation(max_length=n) cuts nothing at all where n is less than the number of special tokens: with
# [CLS] and [SEP] a text of four words is six tokens at max_length=1, two at 2 and three at 3. A pair, with three special
# tokens, stays whole at 2. So the length that is to be the smallest gives the longest rows (one token for one-word answers,
# or what is left of a budget). Without special tokens 1 gives one token and 0 none.
# Guess before it was run: an error.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q tokenizers==0.23.3
"$work/venv/bin/python" -W error - <<'PY'
from importlib.metadata import version

from tokenizers import Tokenizer, models, pre_tokenizers, processors

assert version("tokenizers") == "0.23.3"
words = ["[UNK]", "[CLS]", "[SEP]", "a", "dog", "runs", "fast"]
tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
special = [("[CLS]", 1), ("[SEP]", 2)]
tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]", special)
lengths = {}
for most in range(5):
    tokenizer.enable_truncation(most)
    lengths[most] = (
        len(tokenizer.encode("a dog runs fast")),
        len(tokenizer.encode("a dog", "runs fast")),
        len(tokenizer.encode("a dog runs fast", add_special_tokens=False)),
    )
    print(f"max_length={most}: {lengths[most]} tokens of a text, of a pair, of the text without special tokens")
assert lengths == {0: (6, 7, 0), 1: (6, 7, 1), 2: (2, 7, 2), 3: (3, 3, 3), 4: (4, 4, 4)}, "the behaviour changed"
PY
