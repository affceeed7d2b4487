# make train [DATA=folder] [ARGS=...]   train with the pixel contrast loss and without, and compare
# make test  [ARGS=...]                 run every test
# make gpu-check [ARGS=...]             everything that only a GPU can show, in ten minutes, into runs/gpu-check.md
# make sanitize [ARGS=--seconds=60]     random input under AddressSanitizer, UndefinedBehaviorSanitizer, ThreadSanitizer
# make soak  [ARGS=...]                 10,000 training steps: is memory flat
# make docs  [ARGS=...]                 the documentation, into build/docs
# make bench [ARGS=--quick]             every workload against every peer, into bench/results; an hour
# make lint, make format, make clean
# Each does its own set-up in .venv; FASTPIXCON_BUILD=0 leaves the C++ extension out.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
CPP := $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')
OTHER_CPP := $(shell find bench tests -name '*.cpp' -o -name '*.cu')
# Where there is a compiler, a failing build is an error, not an installation without the extension; pip's torch is built
# with CUDA 13.
NVCC := $(shell $(if $(CUDA_HOME),$(CUDA_HOME)/bin/)nvcc --version 2>/dev/null | grep -o 'release 13')
COMPILER := $(shell command -v $(or $(filter-out c++ g++,$(CXX)),c++) 2>/dev/null)
export FASTPIXCON_BUILD ?= $(if $(COMPILER),$(if $(NVCC),cuda,cpu),auto)

.PHONY: train test gpu-check sanitize sanitize-memory sanitize-threads soak docs lint format bench setup clean

# Waiting threads that spin take the core from whoever else works on the machine, at ten times the price.
train: export OMP_WAIT_POLICY ?= passive
train: setup
	$(BIN)/fastpixcon train $(if $(DATA),--data $(DATA)) $(ARGS)

# Two processes of one thread each; tests that need more threads set them. malloc'd memory is filled with a pattern.
EXECUTED = triton-ptx$(if $(filter cuda,$(FASTPIXCON_BUILD)),$(COMMA)native-ptx)
COMMA := ,
PYTEST = OMP_NUM_THREADS=1 MALLOC_PERTURB_=1 $(BIN)/python -m pytest -n 2 --dist worksteal

# Then the same tests on the Triton kernels, interpreted; then on these and the CUDA kernels, compiled and executed without
# a GPU. A process does one of them.
test: setup .venv/mmseg
	FASTPIXCON_REQUIRE=native,train$$(test ! -e .venv/mmseg || echo ,mmseg) $(PYTEST) $(ARGS)
	$(if $(ARGS),,FASTPIXCON_REQUIRE=triton TRITON_INTERPRET=1 $(PYTEST) -k triton)
	$(if $(ARGS),,FASTPIXCON_TEST_PTX=1 FASTPIXCON_REQUIRE=$(EXECUTED) $(PYTEST) tests/test_conformance.py tests/test_conformance_contrast.py -k ptx)

gpu-check: setup
	$(BIN)/python bench/gpu_check.py $(ARGS)

# Python is not instrumented: its process loads the sanitizer first, and libstdc++ with it, whose exceptions it wraps.
# What Python never frees is no leak of ours (make soak looks for those). PYTHONPATH comes before the editable installation.
FUZZ = cd tests && set -x; PYTHONPATH=$(CURDIR)/$(1)/lib OMP_NUM_THREADS=3
LIBRARY = $(shell $(or $(CXX),c++) -print-file-name=$(1))
ASAN = detect_leaks=0:allocator_may_return_null=1:halt_on_error=1:abort_on_error=1
UBSAN = halt_on_error=1:print_stacktrace=1:abort_on_error=1
# Of what torch and Python do by themselves nothing is known, so nothing is said: no suppressions.
TSAN = halt_on_error=1:abort_on_error=1:ignore_noninstrumented_modules=1

sanitize: sanitize-memory sanitize-threads

sanitize-memory: .venv/installed
	FASTPIXCON_BUILD=cpu FASTPIXCON_SANITIZE=address,undefined $(BIN)/python -W ignore setup.py --quiet build
	$(call FUZZ,build/sanitize-address-undefined) ASAN_OPTIONS=$(ASAN) UBSAN_OPTIONS=$(UBSAN) \
	LD_PRELOAD="$(call LIBRARY,libasan.so) $(call LIBRARY,libubsan.so) $(call LIBRARY,libstdc++.so)" \
	../$(BIN)/python -m fuzz $(ARGS)

# Without address randomisation: older libtsan refuse some of its layouts.
sanitize-threads: .venv/installed
	FASTPIXCON_BUILD=cpu FASTPIXCON_SANITIZE=thread $(BIN)/python -W ignore setup.py --quiet build
	$(call FUZZ,build/sanitize-thread) TSAN_OPTIONS=$(TSAN) \
	LD_PRELOAD="$(call LIBRARY,libtsan.so) $(call LIBRARY,libstdc++.so)" \
	setarch -R ../$(BIN)/python -m fuzz $(ARGS)

soak: setup
	$(BIN)/python bench/soak.py $(ARGS)

# Needs neither the extension nor a GPU.
docs: .venv/installed
	PYTHONWARNINGS=ignore $(BIN)/sphinx-build -W -n -q -b html docs build/docs $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CPP) $(OTHER_CPP)
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP) $(OTHER_CPP)

bench: setup
	$(PIP) --no-build-isolation --editable ".[bench]"
	$(BIN)/fastpixcon bench $(ARGS)

setup: .venv/built

.venv/tools:
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) torch torchvision setuptools wheel ninja
	touch $@

.venv/installed: .venv/tools pyproject.toml
	FASTPIXCON_BUILD=0 $(PIP) --no-build-isolation --editable ".[train,dev]"
	touch $@

# mmsegmentation without what it would pull: a compiled mmcv, for which tests/adapters/mmseg_here.py has a stand-in. As tried.
MMSEG = mmsegmentation==1.2.2 mmengine==0.10.7 mmcv-lite==2.1.0 opencv-python-headless==5.0.0.93 addict==2.4.0 \
	yapf==0.43.0 termcolor==3.3.0 ftfy==6.3.1 prettytable==3.18.0 wcwidth==0.9.4 platformdirs

.venv/mmseg: .venv/installed
	$(PIP) --no-deps $(MMSEG) && touch $@ || echo "mmsegmentation can't be installed: its tests are skipped"

# Also rebuilt when a source is added or removed, which changes the folder.
.venv/built: .venv/installed setup.py $(CPP) $(sort $(dir $(CPP)))
	$(BIN)/python setup.py --quiet build_ext --inplace
	touch $@

clean:
	rm -rf build dist docs/_made *.egg-info fastpixcon/_C*.so .pytest_cache .hypothesis .mypy_cache .ruff_cache .venv/built
	find fastpixcon kernels tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
