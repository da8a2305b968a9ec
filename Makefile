# `make caption` and `make test` are all that a newcomer needs; `make help` lists the rest.
# Every target first makes the environment that it needs in .venv; nothing is installed twice.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.NOTPARALLEL:

PYTHON ?= python3
IMAGES ?= $(sort $(wildcard examples/pictures/*.png))
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --constraint constraints.txt

# $(call install,WHAT): the large downloads are named on stderr as they come; the whole log is shown if it fails.
define install
	$(PIP) --editable $(1) 2>&1 | tee $(VENV)/install.log \
	    | { grep --line-buffered -oE 'Downloading [^ ]+ \([0-9.]+ [MG]B\)|Installing collected packages' >&2 || true; } \
	    || { cat $(VENV)/install.log >&2; false; }
endef

# -- environments: a stamp file each, renewed when setup.py or constraints.txt change ---------------------------------

BASE := $(VENV)/.installed-base
DEV  := $(VENV)/.installed-dev

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	    f"MM needs Python 3.11 or newer, this is {sys.version.split()[0]}: make PYTHON=python3.12 ...")'
	@echo "making $(VENV) with $$($(PYTHON) --version)" >&2
	@$(PYTHON) -m venv $(VENV)

$(BASE): setup.py constraints.txt | $(BIN)/python
	@echo "installing MM with torch and transformers (once, some minutes on a slow line)" >&2
	@$(call install,.)
	@touch $@

$(DEV): setup.py constraints.txt | $(BIN)/python
	@echo "installing MM with torch, transformers and the tools for development (once, some minutes on a slow line)" >&2
	@$(call install,'.[dev]')
	@touch $(BASE) $@

.PHONY: help caption originals test test-nodes test-other-cpu test-slow test-kernels test-full kernel-static kernel-newer-triton test-newest test-apps test-metrics docs fuzz mutations test-resume structure reference lint types format data train reproduce-results train-drawing draw-results bench bench-cpu benchmark gpu-report faithfulness quantization clean

help:  ## this list
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 26

# -- use --------------------------------------------------------------------------------------------------------------

# IMAGES is one path as it stands, or several: words are joined until they name something that is there, so spaces in
# names need no quotes. Where that does not work out, the shell reads the words, with their quotes.
caption: export PATHS := $(if $(filter command environment,$(firstword $(origin IMAGES))),$(value IMAGES),$(IMAGES))
caption: $(BASE)  ## caption the sample pictures, or IMAGES="a.png b.jpg"; a line each on stdout
	@paths=() path=; \
	if [ -e "$$PATHS" ]; then paths=("$$PATHS"); else \
	    for word in $$PATHS; do \
	        path="$${path:+$$path }$$word"; \
	        if [ -e "$$path" ]; then paths+=("$$path"); path=; fi; \
	    done; \
	    if [ -n "$$path" ]; then eval "paths=($$PATHS)" 2>/dev/null || paths+=("$$path"); fi; \
	fi; \
	$(BIN)/mm caption $${paths[@]+"$${paths[@]}"}

# -- check ------------------------------------------------------------------------------------------------------------

# Transformers imports torchao wherever it is installed, so it is kept out of .venv.
TORCHAO := build/torchao-0.18.0

$(TORCHAO): | $(DEV)
	@$(BIN)/python -m pip --disable-pip-version-check install -q --target $@ --no-deps torchao==0.18.0

originals: $(DEV)  ## fetch what the tests read of other projects into build/ (once)
	@$(BIN)/python tests/originals.py

# Two worker processes of one thread each are faster than one process of two threads.
test test-other-cpu test-slow test-kernels kernel-newer-triton: export OMP_NUM_THREADS := 1

test: originals  ## the fast tests (4 to 5 minutes)
	@$(BIN)/pytest -q -n 2

test-nodes: $(DEV)  ## training on two nodes: two network namespaces of this machine (needs root and iproute2)
	@OMP_NUM_THREADS=1 $(BIN)/pytest -q -rs -m nodes tests/nodes

# Nothing that a kernel does or a file holds: what is left out has no matrix products of torch's to round.
test-other-cpu: originals  ## the fast tests of models with matrix products that round as on some other CPU
	@$(BIN)/pytest -q -n 2 --other-cpu --weights-at 0 --ignore tests/kernels --ignore tests/attacks --ignore tests/fuzz \
	    --ignore tests/processing --ignore tests/configuration --ignore tests/data --ignore tests/benchmarks

# SLOW_OF=matrices: those that go through every pair of settings; SLOW_OF=training: those that train, export or break
# files; SLOW_OF=rest: the others. Without it all.
MATRICES := tests/conformance tests/test_invariance.py tests/test_invariance_matrix.py \
    tests/modeling_mm/test_generation_conformance.py
TRAINING := tests/training tests/recipes tests/fuzz tests/exporting $(wildcard tests/test_trainer*.py) \
    $(addprefix tests/test_,$(addsuffix .py,restarts sharded_training streams_in_processes tensor_parallel peft \
    examples_own_pictures examples_pretrain_and_caption examples_train_captioner))

test-slow: originals $(TORCHAO)
	@$(BIN)/pytest -q -n 2 -m slow $(if $(filter matrices,$(SLOW_OF)),$(MATRICES)) \
	    $(if $(filter training,$(SLOW_OF)),$(TRAINING)) \
	    $(if $(filter rest,$(SLOW_OF)),$(addprefix --ignore ,$(MATRICES) $(TRAINING)))

test-kernels: $(DEV)
	@$(BIN)/pytest -q -n 2 -m kernel_full

test-full: test test-slow test-kernels kernel-static  ## every test and the kernels' static gate (25 minutes at most)

kernel-static: $(DEV)  ## compile every kernel for sm_80, sm_90 and sm_100 and check its machine code; no GPU needed
	@$(BIN)/python tests/kernels/static/kernel_static.py --check tests/kernels/static/kernel_static.json

# The machine code of the anchors in tests/kernels/static/kernel_static.py was counted with this newer Triton.
NEWER := build/triton-3.9.0

$(NEWER): | $(DEV)
	@$(BIN)/python -m pip --disable-pip-version-check install -q --target $@ --no-deps triton==3.9.0

kernel-newer-triton: $(NEWER)  ## the same gate and the kernels' tests with Triton 3.9.0
	@PYTHONPATH=$(NEWER) $(BIN)/python tests/kernels/static/kernel_static.py --check tests/kernels/static/kernel_static.json
	@PYTHONPATH=$(NEWER) $(BIN)/pytest -q -n 2 -m 'not gpu' tests/kernels tests/modeling_mm/core/test_triton_attention.py

# What the tests in .venv do without: torchvision, timm (which needs it), and the newest of all that setup.py allows
# (torch, Triton, Pillow, the patches of Transformers). The fast tests of what depends on those, and all that are marked `newest`.
NEWEST := build/newest
NEWEST_TESTS := $(addprefix tests/conversion/test_,$(addsuffix .py,tower_files idefics3)) tests/conformance tests/kernels tests/processing tests/exporting \
    $(addprefix tests/test_,$(addsuffix .py,pipelines hub invariance)) \
    $(addprefix tests/modeling_mm/test_,$(addsuffix .py,generation_conformance generation_contexts)) \
    $(addprefix tests/modeling_mm/,$(addsuffix .py,tasks/test_generation fusion/test_media_encoder towers/test_text \
    towers/test_timm_towers towers/test_vit) $(addprefix core/test_,$(addsuffix .py,cache loading attention positions \
    int8_cache compile triton_attention)))

$(NEWEST)/.installed: setup.py
	@$(PYTHON) -m venv $(NEWEST)
	@$(NEWEST)/bin/python -m pip --disable-pip-version-check install -q --upgrade --editable '.[video,audio]' \
	    torch==2.14.1 torchvision==0.29.1 \
	    accelerate librosa peft pytest pytest-xdist hypothesis num2words parameterized sentencepiece \
	    setuptools timm==1.0.31
	@touch $@

test-newest: $(NEWEST)/.installed  ## torch 2.14.1, torchvision 0.29.1 and the newest of the rest, in build/newest (6 GB)
	@$(NEWEST)/bin/python tests/originals.py
	@OMP_NUM_THREADS=1 $(NEWEST)/bin/pytest -q -n 2 \
	    -m '(newest or not slow) and not kernel_full and not gpu' $(NEWEST_TESTS)

# Programs beside the package, in an environment of their own that sees what .venv has.
APPS := build/apps
PLACE = import sysconfig; print(sysconfig.get_path("purelib"))

$(APPS)/.installed: setup.py constraints.txt | $(DEV)
	@$(PYTHON) -m venv --clear $(APPS)
	@seen="$$($(BIN)/python -c '$(PLACE)')"; \
	    echo "import site; site.addsitedir('$$seen')" > "$$($(APPS)/bin/python -c '$(PLACE)')/seen.pth"
	@$(APPS)/bin/python -m pip --disable-pip-version-check install -q --constraint constraints.txt \
	    usearch openai schemathesis sentence-transformers gradio selenium 'ray[data]'
	@touch $@

# The pages of docs/ as a site, in an environment of its own: neither the package nor torch is installed there.
DOCS := build/docs

$(DOCS)/.installed: setup.py
	@$(PYTHON) -m venv --clear $(DOCS)
	@$(DOCS)/bin/python -m pip --disable-pip-version-check install -q \
	    'mkdocs>=1.6,<2' 'mkdocs-material>=9.8' 'mkdocstrings[python]>=1.0'
	@touch $@

docs: $(DOCS)/.installed  ## the pages of docs/ as a site in build/site; a broken link or a page that nothing names fails
	@NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build -q --strict

# Transformers imports scikit-learn wherever it is installed, so the peers of the metrics are kept out of .venv.
METRIC_PEERS := build/metric-peers

$(METRIC_PEERS)/.installed: | $(DEV)
	@$(BIN)/python -m pip --disable-pip-version-check install -q --no-deps --target $(METRIC_PEERS) \
	    pycocoevalcap==1.2 nltk==3.10.4 rouge-score==0.1.2 absl-py==2.5.1 six==1.17.0 bert-score==0.3.13 \
	    aac-metrics==0.6.0 pythonwrench==0.6.8 torchmetrics==1.9.0 lightning-utilities==0.15.3 \
	    scikit-learn==1.9.1 scipy==1.17.1 joblib==1.6.0 threadpoolctl==3.8.0 narwhals==2.29.0 cloudpickle==3.1.3
	@touch $@

test-metrics: $(METRIC_PEERS)/.installed  ## the metrics beside scikit-learn, pycocoevalcap, nltk and other packages
	@PYTHONPATH=$(METRIC_PEERS) OMP_NUM_THREADS=1 $(BIN)/pytest -q -rs -m "slow or not slow" \
	    tests/evaluation/test_metric_peers.py tests/evaluation/test_classes_against_sklearn.py \
	    tests/evaluation/test_bert_score.py

# The page of mm demo is tried in Chromium; Debian's is installed where this is root and there is none.
test-apps: $(APPS)/.installed  ## mm serve, mm demo, search, Ray and sentence-transformers, as people use them (minutes)
	@command -v chromium > /dev/null \
	    || { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq chromium chromium-driver; } > /dev/null 2>&1 \
	    || echo "no Chromium (apt-get install chromium chromium-driver): mm demo is not tried in a browser" >&2
	@OMP_NUM_THREADS=1 $(APPS)/bin/python -m pytest -q -rs -m apps tests/serving tests/searching tests/demo tests/cli

fuzz: $(DEV)  ## a million broken pictures, sounds and films each, in processes of their own (hours)
	@for kind in image audio video; do \
	    OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/run_images.py --kind $$kind --cases 1000000; done

test-resume: export OMP_NUM_THREADS := 1
test-resume: $(DEV)  ## a run of 24 steps, killed at each of them and resumed, in 8 settings: equal weights (minutes)
	@$(BIN)/python -W ignore tests/resumed_runs.py

mutations: N ?= 10000
mutations: $(DEV)  ## N (10000) broken headers of weights and N broken JSON files of a model, each read (minutes)
	@for kind in weights json; do \
	    OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/run_checkpoints.py --kind $$kind --cases $(N); done

structure: $(DEV)  ## how far the code is from one page per journey: counts
	@$(BIN)/python benchmarks/structure.py

lint: $(DEV)  ## ruff and basedpyright, both without a finding
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(MAKE) --no-print-directory types

types: $(DEV)
	@mkdir -p build/typing && ln -sfn ../.. build/typing/mm
	@$(BIN)/basedpyright

reference: $(BASE)  ## write docs/configuration.md from what the code says of each field
	@$(BIN)/python docs/configuration.py

format: $(DEV)  ## let ruff put the code in order
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

# -- make again what is shipped ---------------------------------------------------------------------------------------

data: $(DEV)  ## fetch and check the training pictures and the pretrained weights into .data
	@$(BIN)/python -m mm.recipes.sources

train: data  ## train mm-tiny again and pack it into checkpoints/mm-tiny (two to three hours; goes on where it stopped)
	@$(BIN)/mm train recipes/mm_tiny.yaml --resume
	@cp runs/mm-tiny/mm-tiny/* checkpoints/mm-tiny/

reproduce-results: data  ## how good the shipped model is, beside baselines: docs/results.md (ten minutes)
	@OMP_NUM_THREADS=1 $(BIN)/python -W ignore benchmarks/results.py

train-drawing: data  ## train mm-draw again into runs/mm-draw: a tokenizer of pictures, then the model (half an hour)
	@$(BIN)/python -m mm.recipes.draw --output runs/mm-draw

DRAWER ?= checkpoints/mm-draw
draw-results: data  ## how well mm-draw draws held-out names and styles, and its tokenizer keeps pictures (20 minutes)
	@OMP_NUM_THREADS=1 $(BIN)/python -W ignore benchmarks/drawing_tokenizer.py --model $(DRAWER)/image_tokenizer
	@OMP_NUM_THREADS=1 $(BIN)/python -W ignore benchmarks/drawing.py --model $(DRAWER) --sheet build/drawn.png

benchmark: $(DEV)  ## generate() beside transformers' BLIP, the same weights in both
	@$(BIN)/python -W ignore benchmarks/inference.py blip

# Each has an exit status of its own: one bar that is missed does not keep the others from being measured.
BENCHES := inference training everyday parts memory scaling floor

bench: $(DEV)  ## everything beside its peers, with logs and docs/benchmarks.md (an hour; QUICK=1: some rows, 2 minutes)
ifdef QUICK
	@OMP_NUM_THREADS=1 $(BIN)/python -W ignore benchmarks/inference.py --quick
else
	@missed=0; for name in $(BENCHES); do \
	    $(BIN)/python -W ignore benchmarks/$$name.py --log benchmarks/logs/$$name.txt || missed=1; done; \
	    $(BIN)/python benchmarks/page.py; exit $$missed
endif

# Transformers imports torchvision wherever it is installed, so these peers are kept out of .venv.
OPENVINO := build/openvino
OPEN_CLIP := build/open-clip

$(OPEN_CLIP)/.installed: | $(DEV)
	@$(BIN)/python -m pip --disable-pip-version-check install -q --no-deps --target $(OPENVINO) \
	    openvino==2026.4.1 openvino-telemetry==2025.2.0
	@$(BIN)/python -m pip --disable-pip-version-check install -q --no-deps --target $(OPEN_CLIP) \
	    open_clip_torch==3.3.0 torchvision==0.28.0 timm==1.0.31 ftfy==6.3.1 wcwidth==0.9.4
	@touch $@

bench-cpu: $(OPEN_CLIP)/.installed $(TORCHAO)  ## the same captioner by ONNX Runtime, OpenVINO and torch.compile on a CPU; open_clip
	@PYTHONPATH=$(OPENVINO):$(TORCHAO) $(BIN)/python -W ignore benchmarks/cpu.py --log benchmarks/logs/cpu.txt

gpu-report: $(DEV)  ## on an NVIDIA GPU: is all right, and how fast? build/gpu-report.md and .json (half an hour)
	@$(BIN)/python -W ignore benchmarks/gpu_report.py

faithfulness: $(DEV)  ## are maps of words over pictures faithful? deletion, insertion, pointing game (needs make data)
	@OMP_NUM_THREADS=1 $(BIN)/python benchmarks/faithfulness.py

quantization: $(TORCHAO)  ## what int8 and bf16 cost mm-tiny, on Twemoji (needs make data)
	@PYTHONPATH=$(TORCHAO) $(BIN)/python benchmarks/quantization.py

clean:  ## remove what was built (not .venv, not .data)
	@rm -rf build dist *.egg-info .pytest_cache .ruff_cache
	@find . -name __pycache__ -not -path './.*' -prune -exec rm -rf {} +
