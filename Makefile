# make demo        set up .venv, then train, synthesise and judge a cohort in a few minutes
# make test        set up .venv and run the default tests (under 5 minutes on 2 cores)
# make test-slow   kill tests and the like
# make test-nightly  what is slow or seldom fails, with fifty kills where test-slow has five, and Slurm's storm
# make test-slurm  start two real Slurms of two nodes each on this host (Debian, as root) and run the tests on them
# make test-cuda   what needs a GPU
# make test-triton  the GPU's kernels in Triton's interpreter, without a GPU (installs Triton, 1 GB)
# make test-browser  how pages print, in Chromium (installs it and poppler-utils: Debian, as root)
# make test-image  build the image (minutes, as root), run the tests inside, and train in it on that Slurm
# make bench       what it costs, against the published training step (under 8 minutes)
# make bench-cuda  time and memory on a GPU (6 minutes)
# make lint types  what CI checks besides
# make docs        the pages of docs/ as HTML, in build/docs
# make lock        pin today's newest versions anew
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO ?= runs/demo

.PHONY: bench bench-all bench-cuda demo test test-slow test-nightly test-cuda test-triton test-browser test-slurm test-image lint types docs lock clean

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "healthgym needs Python 3.11 or newer; say which: make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

# Every line starts its job or goes on with it, so an interrupted demo carries on.
demo: $(INSTALLED)
	$(BIN)/python jobs/prepare.py configs/schemas/art_hiv.yaml --dataset simulated_art_hiv --max-patients 1200 \
	  --out $(DEMO)/prepared.h5 --tables $(DEMO)/tables
	$(BIN)/python jobs/train.py configs/demo.yaml --data $(DEMO)/prepared.h5 --run-dir $(DEMO)/run --on local
	$(BIN)/python jobs/synthesize.py --run-dir $(DEMO)/run --patients 4000 --patients-per-shard 1000 \
	  --out $(DEMO)/cohort
	$(BIN)/python jobs/train.py configs/demo_ar.yaml --data $(DEMO)/prepared.h5 --run-dir $(DEMO)/run-ar --on local
	$(BIN)/python jobs/synthesize.py --run-dir $(DEMO)/run-ar --patients 2048 --patients-per-shard 1024 \
	  --out $(DEMO)/cohort-ar
	$(BIN)/python jobs/compare.py --schema configs/schemas/art_hiv.yaml --real $(DEMO)/prepared.h5 \
	  --out $(DEMO)/comparison --patients 512 $(DEMO)/run $(DEMO)/run-ar
	$(BIN)/python jobs/evaluate.py --real $(DEMO)/prepared.h5 --synthetic $(DEMO)/cohort-ar --out $(DEMO)/report
	@echo "Both systems side by side: $(DEMO)/comparison/compare.html. The report on ar:"
	@echo "$(DEMO)/report/report.html. Loss curves: $(DEMO)/run/losses.png, $(DEMO)/run-ar/losses.png."

# Two processes; WORKERS=0 is one process, for a debugger. Slow tests are shared out one by one, others by file, whose
# tests share fixtures.
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)
test: $(INSTALLED)
	$(PYTEST) --dist loadfile -m "not slow and not nightly and not slurm and not cuda and not triton and not browser"

test-slow: $(INSTALLED)
	$(PYTEST) --dist worksteal -m "slow and not nightly and not slurm and not cuda and not triton and not browser"

# Without root and Debian's Slurm, its storm of preemptions is left out: make test-nightly STORM=
STORM ?= storm
test-nightly: $(INSTALLED)
	$(PYTEST) --dist worksteal -m "(slow or nightly) and not slurm and not cuda and not triton and not browser" --kills 50
	$(if $(STORM),$(MAKE) test-slurm SLURM_WORDS="--kills 20 -k storm")

test-cuda: $(INSTALLED)
	$(BIN)/python -m pytest -m cuda

# Where torch was built for CUDA, its Triton is there already; with a CPU build it is too large to ask of everybody.
test-triton: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[kernels]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m triton tests/networks

WAIT := -o DPkg::Lock::Timeout=300
test-browser: $(INSTALLED)
	@command -v chromium >/dev/null && command -v pdftotext >/dev/null \
	  || { echo "installing chromium and poppler-utils"; apt-get $(WAIT) update -qq; \
	       apt-get $(WAIT) install -y -qq --no-install-recommends chromium poppler-utils >/dev/null; }
	$(BIN)/python -m pytest -m browser tests/evaluation

# Here the absence of Slurm is an error; `make test` skips these tests.
SLURM_DIR ?= /var/tmp/healthgym-slurm
IMAGE_DIR ?= /var/tmp/healthgym-image
on_slurm = tests/slurm/cluster.sh start 2; status=0; HEALTHGYM_TEST_SLURM=1 \
  $(BIN)/python -m pytest -n 2 --max-worker-restart 0 --dist worksteal -m $(1) $(SLURM_WORDS) tests/slurm || status=$$?; \
  tests/slurm/cluster.sh stop; exit $$status
test-slurm test-image: export HEALTHGYM_SLURM_DIR := $(SLURM_DIR)
test-slurm: $(INSTALLED)
	$(call on_slurm,"slurm and not image")

test-image: export HEALTHGYM_TEST_IMAGE := $(IMAGE_DIR)
test-image: $(INSTALLED)
	tests/slurm/image.sh base
	tests/slurm/image.sh build
	tests/slurm/image.sh test
	tests/slurm/image.sh unpack $(IMAGE_DIR)
	$(call on_slurm,image)

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(MAKE) --no-print-directory docs

# Warnings are errors; what mkdocs says of its own future is left out.
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

types: $(INSTALLED)
	$(BIN)/mypy

# With a CPU build of torch at hand, the lock names no CUDA packages; pip finds those that torch needs.
lock:
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet torch==2.13.0
	build/lock/bin/python -m pip install --quiet '.[dev]'
	{ echo "# Made by 'make lock' with $$($(PYTHON) --version)."; \
	  build/lock/bin/python -m pip freeze --exclude healthgym | sed 's/+cpu//'; } > requirements.lock
	rm -rf build

# Results as JSON go to BENCH; with a GPU, the training step is measured there.
BENCH ?= benchmarks/results/new
STEPS := OMP_WAIT_POLICY=PASSIVE $(BIN)/python benchmarks/training_step.py
TWO := --threads 2 --no-memory --json $(BENCH)/training_step/two_threads
bench: $(INSTALLED)
	$(STEPS) --lengths 60 --json $(BENCH)/training_step/one_thread.json
	$(STEPS) $(TWO).json
	$(STEPS) --system v2.5 --lengths 60 $(TWO)_v2.5.json
	$(STEPS) --system v3 --lengths 60 $(TWO)_v3.json
	$(BIN)/python benchmarks/checkpoints.py --json $(BENCH)/checkpoints.json
	$(BIN)/python benchmarks/startup.py --json $(BENCH)/startup.json
	$(BIN)/python benchmarks/synthesis.py --json $(BENCH)/synthesis.json
	$(BIN)/python benchmarks/synthesis.py --precision medium --json $(BENCH)/synthesis_medium.json
	$(BIN)/python benchmarks/diffusion.py --json $(BENCH)/diffusion.json
	$(BIN)/python benchmarks/shards.py --repeats 1 --sizes 1024 4096 --json $(BENCH)/shards.json

# On a GPU, in 6 minutes: steps of all systems, kernels, rates of the card, memory, synthesis.
bench-cuda: $(INSTALLED)
	$(BIN)/python benchmarks/gpu/on_gpu.py --json benchmarks/results

# All of the two tables of benchmarks/RESULTS.md: systems, precisions and lengths; half an hour on two cores.
bench-all: bench
	$(STEPS) --json $(BENCH)/training_step/one_thread.json
	$(STEPS) --variables 13 $(TWO)_13_variables.json
	$(STEPS) --system v1 --lengths 60 $(TWO)_v1.json
	$(STEPS) --lengths 60 --precision medium $(TWO)_medium.json
	$(BIN)/python benchmarks/autoregressive.py --json $(BENCH)/autoregressive.json
	for system in v2.5 v3; do \
	  $(STEPS) --system $$system --json $(BENCH)/training_step/one_thread_$$system.json && \
	  $(STEPS) --system $$system $(TWO)_$$system.json && \
	  $(STEPS) --system $$system --precision medium $(TWO)_$${system}_medium.json || exit 1; done

clean:
	rm -rf $(VENV) build
