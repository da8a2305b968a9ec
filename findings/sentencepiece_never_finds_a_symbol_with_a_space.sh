#!/bin/sh
# sentencepiece 0.2.3: a user_defined_symbols entry with a space in it gets an id and is never found: texts have no spaces any
# more when symbols are looked for, they have U+2581. So "<image 1>" is cut into letters, where "<image>" is one piece, and
# the place of the picture is lost without a word. Written with U+2581 for the space, "<image" U+2581 "1>", it is found.
# Guess before it was run: it is found as it is written.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q sentencepiece==0.2.3
"$work/venv/bin/python" - <<'PY'
import io
from importlib.metadata import version

import sentencepiece

assert version("sentencepiece") == "0.2.3"
model = io.BytesIO()
sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(["the quick brown fox", "a dog runs in the park"] * 50), model_writer=model, vocab_size=40,
    hard_vocab_limit=False, minloglevel=2, user_defined_symbols=["<image>", "<image 1>", "<image\u25812>"],
)
pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
found = {}
for symbol in ("<image>", "<image 1>", "<image 2>"):
    cut = pieces.encode(f"a {symbol} dog", out_type=str)
    found[symbol] = [one for one in cut if one in ("<image>", "<image 1>", "<image\u25812>")]
    print(f"a {symbol} dog: {cut}")
assert pieces.piece_to_id("<image 1>") == 4
assert found == {"<image>": ["<image>"], "<image 1>": [], "<image 2>": ["<image\u25812>"]}, "the behaviour changed"
PY
