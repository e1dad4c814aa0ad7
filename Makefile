# make solve, make test: each sets up .venv by itself. make help lists the rest.
PYTHON ?= python3
PIP_ARGS ?=
VENV_ARGS ?=
PEERS ?= peft llama_cpp vllm
QUESTION ?= Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How many clips did Natalia sell altogether in April and May?
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := pyproject.toml setup.py constraints.txt $(wildcard csrc/*.cpp csrc/*.h csrc/*/*.cpp csrc/*/*.h)
CXX ?= c++
CXXFLAGS_TEST ?= -O2
CROSS ?= aarch64-linux-gnu

.PHONY: help solve test test-vllm lint format bench bench-gpu bench-ops peers cpp-test sanitize neon-test clean

help:
	@echo 'make solve      set up .venv, fetch the default base and solve a question: QUESTION="..."'
	@echo 'make test       set up .venv and run every test'
	@echo 'make test-vllm  vLLM with our plugin, in an environment of its own: tests, then an hour of measurements: BENCH_ARGS="--ranks 16"'
	@echo 'make lint       ruff, clang-format, mypy;   make format  rewrites what they would'
	@echo 'make sanitize   C++ tests with the address and undefined-behaviour sanitizers'
	@echo 'make neon-test  C++ tests cross-compiled for AArch64, run by qemu-user'
	@echo 'make bench      tokens/s of ours, of the peers that make peers has built, and of the machine at best: BENCH_ARGS="--peers none"'
	@echo 'make bench-gpu  the Triton kernels on a GPU, beside cuBLAS and PEFT, in 9 minutes: BENCH_ARGS="--parts decode"'
	@echo 'make bench-ops  time the ops, beside plain torch'
	@echo 'make peers      environments of what bench/compare.py measures beside ours: PEERS="peft llama_cpp vllm"'
	@echo 'make clean      remove what the targets made'
	@echo 'PYTHON=python3.12   another interpreter (3.10 or newer)'
	@echo 'PIP_ARGS="..."      more arguments for pip, such as the index of CPU builds of torch'
	@echo 'VENV_ARGS=--system-site-packages   reuse the torch that PYTHON has, if it is from 2.6 to 2.13'

$(BIN)/python:
	@$(PYTHON) tools/before_install.py $(VENV_ARGS)
	@$(PYTHON) -m venv $(VENV_ARGS) $(VENV)
	@$(PYTHON) tools/parent_packages.py $(VENV) $(VENV_ARGS)

$(VENV)/installed: $(BIN)/python $(INSTALLED)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $$($(BIN)/python tools/constraints.py $(VENV)/constraints.txt) $(PIP_ARGS) -e .
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	@echo 'Installing what the tests and the linters need: about 130 MB.'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $$($(BIN)/python tools/constraints.py $(VENV)/constraints.txt) $(PIP_ARGS) -e '.[test,lint]'
	@touch $@

solve: $(VENV)/installed
	@$(BIN)/lorid solve "$(QUESTION)"
	@echo
	@echo 'The next question: $(BIN)/lorid solve "..."'

# A process for each core, four at most; threads that wait do not spin on what the others need.
test: $(VENV)/installed-test cpp-test
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile

test-vllm: $(VENV)/installed-test
	@$(PYTHON) bench/peers/install.py vllm --pip-args="$(PIP_ARGS)"
	build/peers/vllm/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall .
	build/peers/vllm/bin/python -m pip install --quiet --disable-pip-version-check pytest
	build/peers/vllm/bin/pytest -q tests/integrations/test_vllm.py
	@mkdir -p build/bench
	$(BIN)/python bench/vllm_lora.py --out build/bench/vllm-lora $(BENCH_ARGS)

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $$(git ls-files 'csrc/*.cpp' 'csrc/*.h')
	$(BIN)/mypy

format: $(VENV)/installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(git ls-files 'csrc/*.cpp' 'csrc/*.h')

bench: $(VENV)/installed-test
	@mkdir -p build/bench
	$(BIN)/python bench/compare.py --ranks 0,16,64,512 --runs 1 --out build/bench/compare $(BENCH_ARGS)

bench-gpu: $(VENV)/installed-test
	$(BIN)/python bench/gpu/run.py --out build/bench/gpu $(BENCH_ARGS)

bench-ops: $(VENV)/installed-test
	@mkdir -p build/bench
	$(BIN)/python -m pytest bench/ops --benchmark-columns=median,iqr,rounds --benchmark-sort=name --benchmark-json=build/bench/ops.json
	$(BIN)/python bench/report.py build/bench/ops.json --out build/bench/ops.md

peers:
	@$(PYTHON) bench/peers/install.py $(PEERS) --pip-args="$(PIP_ARGS)"

cpp-test:
	$(MAKE) -f csrc/tests/tests.mk OUT=build/cpp-test CXX="$(CXX)" MODE="$(CXXFLAGS_TEST)" run

sanitize:
	$(MAKE) -f csrc/tests/tests.mk OUT=build/sanitize CXX="$(CXX)" MODE="-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all" run

neon-test:
	@command -v $(CROSS)-g++ >/dev/null && command -v qemu-aarch64 >/dev/null || { echo 'neon-test needs a cross compiler and qemu: apt-get install g++-aarch64-linux-gnu qemu-user'; exit 1; }
	$(MAKE) -f csrc/tests/tests.mk OUT=build/neon-test CXX=$(CROSS)-g++ ARCH=aarch64 MODE=-O2 RUN="qemu-aarch64 -L /usr/$(CROSS)" ARGS=--no-fork run

clean:
	rm -rf $(VENV) build dist *.egg-info lorid_engine/*.so
