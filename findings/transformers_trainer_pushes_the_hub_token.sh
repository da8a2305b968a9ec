#!/bin/sh
# transformers 5.23.0: TrainingArguments(hub_token=...) hides the token in to_dict(), to_json_string() and repr(), but
# Trainer pickles the arguments as they are into training_args.bin and pushes that file to the Hub: whoever reads the
# repository, a public one by default, has a token that may write. Checkpoints on the disk hold it too. Log in with
# `hf auth login` or HF_TOKEN instead; mm.MMTrainer keeps the token out of its files.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q transformers==5.23.0 torch==2.13.0 accelerate==1.10.1 pillow
cd "$work"
cat >hub.py <<'PY'
"""A Hub that takes every file within its commit, and keeps what it was given as `pushed`."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

pushed: dict[str, bytes] = {}


class Hub(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answer = {"errors": [], "warnings": []}
        if self.path == "/api/repos/create":
            answer = {"url": f"http://{self.headers['Host']}/me/run"}
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            answer = {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]}
        elif "/commit/" in self.path:
            for line in body.splitlines():
                kind, value = json.loads(line).values()
                if kind == "file":
                    pushed[value["path"]] = base64.b64decode(value["content"])
            answer = {"commitOid": "0" * 40, "commitUrl": f"http://{self.headers['Host']}/me/run/commit/0"}
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_address[1]}"
PY
HF_HOME="$work/home" HF_HUB_DISABLE_XET=1 HF_HUB_DISABLE_TELEMETRY=1 NO_PROXY=127.0.0.1 venv/bin/python -W ignore - <<'PY'
import os

import hub

os.environ["HF_ENDPOINT"] = hub.url
from importlib.metadata import version

from transformers import BertConfig, BertForMaskedLM, Trainer, TrainingArguments

assert version("transformers") == "5.23.0"
token = "hf_" + "secret" * 5
sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8, "vocab_size": 9}
arguments = TrainingArguments(
    "run", push_to_hub=True, hub_model_id="me/run", hub_token=token, report_to=[], use_cpu=True
)
Trainer(BertForMaskedLM(BertConfig(**sizes)), arguments).push_to_hub()
told = token in arguments.to_json_string() or token in repr(arguments)
holds = sorted(name for name, data in hub.pushed.items() if token.encode() in data)
print("pushed:", ", ".join(sorted(hub.pushed)))
print(f"the token is shown by the arguments: {told}; files on the Hub that hold it: {holds}")
assert not told and holds == ["training_args.bin"], "the behaviour changed"
PY
