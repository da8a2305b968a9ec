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

.PHONY: help caption originals test test-nodes test-other-cpu test-slow test-kernels test-full kernel-static kernel-newer-triton test-newest fuzz mutations test-resume reference lint types format data train bench benchmark faithfulness quantization clean

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
	    --ignore tests/processing

test-slow: originals $(TORCHAO)
	@$(BIN)/pytest -q -n 2 -m slow

test-kernels: $(DEV)
	@$(BIN)/pytest -q -n 2 -m kernel_full

test-full: test test-slow test-kernels kernel-static  ## every test and the kernels' static gate (25 minutes at most)

kernel-static: $(DEV)  ## compile every kernel for sm_80, sm_90 and sm_100 and check its machine code; no GPU needed
	@$(BIN)/python benchmarks/kernel_static.py --check benchmarks/kernel_static.json

# The machine code of the anchors in benchmarks/kernel_static.py was counted with this newer Triton.
NEWER := build/triton-3.9.0

$(NEWER): | $(DEV)
	@$(BIN)/python -m pip --disable-pip-version-check install -q --target $@ --no-deps triton==3.9.0

kernel-newer-triton: $(NEWER)  ## the same gate and the kernels' tests with Triton 3.9.0
	@PYTHONPATH=$(NEWER) $(BIN)/python benchmarks/kernel_static.py --check benchmarks/kernel_static.json
	@PYTHONPATH=$(NEWER) $(BIN)/pytest -q -n 2 -m 'not gpu' tests/kernels tests/modeling_mm/core/test_triton_attention.py

# What the tests in .venv do without: torchvision, timm (which needs it), and the newest of all that setup.py allows
# (torch, Triton, Pillow, the patches of Transformers). The fast tests of what depends on those, and all that are marked `newest`.
NEWEST := build/newest
NEWEST_TESTS := tests/conformance tests/kernels tests/processing tests/exporting \
    $(addprefix tests/test_,$(addsuffix .py,pipelines hub invariance)) \
    $(addprefix tests/modeling_mm/test_,$(addsuffix .py,generation_conformance generation_contexts)) \
    $(addprefix tests/modeling_mm/,$(addsuffix .py,tasks/test_generation fusion/test_media_encoder towers/test_text \
    towers/test_timm_towers towers/test_vit) $(addprefix core/test_,$(addsuffix .py,cache loading attention positions \
    int8_cache compile triton_attention)))

$(NEWEST)/.installed: setup.py
	@$(PYTHON) -m venv $(NEWEST)
	@$(NEWEST)/bin/python -m pip --disable-pip-version-check install -q --upgrade --editable '.[video,audio]' \
	    torch==2.14.1 torchvision==0.29.1 \
	    accelerate librosa peft pytest pytest-xdist hypothesis parameterized sentencepiece setuptools timm==1.0.31
	@touch $@

test-newest: $(NEWEST)/.installed  ## torch 2.14.1, torchvision 0.29.1 and the newest of the rest, in build/newest (6 GB)
	@$(NEWEST)/bin/python tests/originals.py
	@OMP_NUM_THREADS=1 $(NEWEST)/bin/pytest -q -n 2 \
	    -m '(newest or not slow) and not kernel_full and not gpu' $(NEWEST_TESTS)

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

train: data  ## train mm-tiny again and pack it into checkpoints/mm-tiny (half an hour)
	@$(BIN)/python -m mm.recipes.emoji_captions --output runs/mm-tiny
	@$(BIN)/python -m mm.recipes.package runs/mm-tiny/model checkpoints/mm-tiny

benchmark: $(DEV)  ## generate() beside transformers' BLIP, the same weights in both
	@$(BIN)/python benchmarks/beam_search_vs_blip.py

bench: $(DEV)  ## six families beside transformers' classes of the same weights (half an hour; QUICK=1: four minutes)
	@$(if $(QUICK),OMP_NUM_THREADS=1) $(BIN)/python -W ignore benchmarks/inference.py $(if $(QUICK),--quick)

faithfulness: $(DEV)  ## are maps of words over pictures faithful? deletion, insertion, pointing game (needs make data)
	@OMP_NUM_THREADS=1 $(BIN)/python benchmarks/faithfulness.py

quantization: $(TORCHAO)  ## what int8 and bf16 cost mm-tiny, on Twemoji (needs make data)
	@PYTHONPATH=$(TORCHAO) $(BIN)/python benchmarks/quantization.py

clean:  ## remove what was built (not .venv, not .data)
	@rm -rf build dist *.egg-info .pytest_cache .ruff_cache
	@find . -name __pycache__ -not -path './.*' -prune -exec rm -rf {} +
