# Each command does all of its own set-up in .venv (uv if present, else pip) and works from any state.
# `make` alone lists them. PYTHON=... names the interpreter to build .venv with.

python := .venv/bin/python
test_extras := data,eval,dev,notebook
TEST_WORKERS ?= 3
# XLA brings its own threads; those of the numpy world would only fight with them.
one_thread := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 NUMBA_NUM_THREADS=1
# Where libtpu is installed jax would look for a TPU, and wait for it.
no_tpu := JAX_PLATFORMS=cpu
export PYTHON

.PHONY: help setup demo talk test test-tpu test-tpu-all lint clean

help: ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: ## build .venv with what the demo needs
	@.ci/venv data,eval

demo: ## render a corpus, train a small model from nothing, score it, stream a conversation
	@.ci/venv data,eval
	$(one_thread) $(python) -m experiments.run_demo

talk: ## stream one held-out session through the shipped checkpoint, in seconds
	@.ci/venv
	$(python) -m tmi.decode.stream --workdir=assets/nano --example --out=build/talk

test: ## run the tests that need no accelerator
	@.ci/venv $(test_extras)
	$(no_tpu) $(one_thread) $(python) -m pytest -n $(TEST_WORKERS) --dist loadfile \
		--no-loadscope-reorder

test-tpu test-tpu-all: TEST_WORKERS = 2
test-tpu: tpu_tests = tpu and not tpu_all
test-tpu: ## compile for a TPU with libtpu (640 MB more); no TPU is needed
test-tpu-all: tpu_tests = tpu
test-tpu-all: ## compile kernels of all shapes for each kind of TPU
test-tpu test-tpu-all:
	@.ci/venv $(test_extras),tpu
	$(no_tpu) TPU_SKIP_MDS_QUERY=1 ALLOW_MULTIPLE_LIBTPU_LOAD=1 $(one_thread) \
		$(python) -m pytest -m "$(tpu_tests)" -n $(TEST_WORKERS)

lint: ## check style (ruff) and types (pyright)
	@.ci/venv $(test_extras)
	$(python) -m ruff check .
	$(python) -m pyright

clean: ## remove what runs and tools have written; .venv stays
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
