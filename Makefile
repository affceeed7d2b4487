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
# Bytecode is made of what is imported, then; also where the environment (many a container's) forbids it: every process
# would compile torch anew, for some 20 s.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/python -m pip install --no-compile --disable-pip-version-check
STEP := @.ci/step
CPP := $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')
OTHER_CPP := $(shell find bench fastpixcon tests -name '*.cpp' -o -name '*.cu')
COMMA := ,
SPACE := $() $()

# Which kernels are built. make train wants what this machine can use, make test what the tests execute and read: CUDA
# for every architecture, instruction sets in software. Where there is a compiler, a failing build is an error, not an
# installation without the extension; pip's torch is built with CUDA 13.
NVCC := $(shell $(if $(CUDA_HOME),$(CUDA_HOME)/bin/)nvcc --version 2>/dev/null | grep -o 'release 13')
COMPILER := $(shell command -v $(or $(filter-out c++ g++,$(CXX)),c++) 2>/dev/null)
GPUS := $(if $(NVCC),$(shell nvidia-smi --query-gpu=compute_cap --format=csv$(COMMA)noheader 2>/dev/null | \
	grep -E '^([89]|[1-9][0-9])\.[0-9]+$$' | sort -u))
MODE = $(or $(FASTPIXCON_BUILD),$(if $(COMPILER),$(if $(NVCC),$(1),cpu),auto))
LIST = $(subst $(SPACE),_,$(strip $(subst ;, ,$(TORCH_CUDA_ARCH_LIST))))
NAME = $(1)$(if $(filter cuda,$(1)),-$(or $(LIST),$(subst $(SPACE),_,$(strip $(2))),all))
USED := $(call NAME,$(call MODE,$(if $(GPUS),cuda,cpu)),$(GPUS))
TESTED := $(call NAME,$(call MODE,cuda))-tests
# What is built already is never replaced by less.
BUILT := $(patsubst .venv/built-%,%,$(wildcard .venv/built-*))
MORE = $(if $(filter cuda%,$(1)),$(1)% cuda-all%,c% $(filter auto,$(1)))
USED_KERNELS := $(if $(filter-out 0,$(USED)),.venv/built-$(firstword $(filter $(call MORE,$(USED)),$(BUILT)) $(USED)))
MORE_TESTED := $(if $(filter cpu-tests,$(TESTED)),cuda%-tests) $(TESTED)
TESTED_KERNELS := $(if $(filter-out 0-tests,$(TESTED)),.venv/built-$(firstword $(filter $(MORE_TESTED),$(BUILT)) $(TESTED)))

.PHONY: train test gpu-check sanitize sanitize-memory sanitize-threads soak docs lint format bench clean
.PHONY: set-up set-up-test set-up-bench

# Waiting threads that spin take the core from whoever else works on the machine, at ten times the price.
train: export OMP_WAIT_POLICY ?= passive
train: set-up
	$(BIN)/fastpixcon train $(if $(DATA),--data $(DATA)) $(ARGS)

# Two processes of one thread each; tests that need more threads set them. malloc'd memory is filled with a pattern.
EXECUTED = triton-ptx$(if $(filter cuda%,$(TESTED)),$(COMMA)native-ptx)
PYTEST = OMP_NUM_THREADS=1 MALLOC_PERTURB_=1 $(BIN)/python -m pytest -n 2 --dist worksteal

# Then the same tests on the Triton kernels, interpreted; then on these and the CUDA kernels, compiled and executed without
# a GPU; then on the Triton kernels as compiled for sm_90, each with each dtype. A process does one of them.
test: set-up-test
	FASTPIXCON_REQUIRE=native,train,monai$$(test ! -e .venv/mmseg || echo ,mmseg) $(PYTEST) $(ARGS)
	$(if $(ARGS),,FASTPIXCON_REQUIRE=triton TRITON_INTERPRET=1 $(PYTEST) -k triton)
	$(if $(ARGS),,FASTPIXCON_TEST_PTX=1 FASTPIXCON_REQUIRE=$(EXECUTED) $(PYTEST) tests/test_conformance.py tests/test_conformance_contrast.py -k ptx)
	$(if $(ARGS),,FASTPIXCON_TEST_PTX=each FASTPIXCON_TEST_PTX_ARCH=90 FASTPIXCON_REQUIRE=triton-ptx $(PYTEST) tests/test_conformance.py tests/test_conformance_contrast.py -k triton-ptx)

gpu-check: set-up-test
	$(BIN)/python bench/on_gpu/gpu_check.py $(ARGS)

# Python is not instrumented: its process loads the sanitizer first, and libstdc++ with it, whose exceptions it wraps.
# What Python never frees is no leak of ours (make soak looks for those). PYTHONPATH comes before the editable installation.
FUZZ = cd tests && set -x; PYTHONPATH=$(CURDIR)/$(1)/lib OMP_NUM_THREADS=3
LIBRARY = $(shell $(or $(CXX),c++) -print-file-name=$(1))
ASAN = detect_leaks=0:allocator_may_return_null=1:halt_on_error=1:abort_on_error=1
UBSAN = halt_on_error=1:print_stacktrace=1:abort_on_error=1
# Of what torch and Python do by themselves nothing is known, so nothing is said: no suppressions.
TSAN = halt_on_error=1:abort_on_error=1:ignore_noninstrumented_modules=1

sanitize: sanitize-memory sanitize-threads

sanitize-memory: .venv/dev
	FASTPIXCON_BUILD=cpu FASTPIXCON_SANITIZE=address,undefined $(BIN)/python -W ignore setup.py --quiet build
	$(call FUZZ,build/sanitize-address-undefined) ASAN_OPTIONS=$(ASAN) UBSAN_OPTIONS=$(UBSAN) \
	LD_PRELOAD="$(call LIBRARY,libasan.so) $(call LIBRARY,libubsan.so) $(call LIBRARY,libstdc++.so)" \
	../$(BIN)/python -m fuzz $(ARGS)

# Without address randomisation: older libtsan refuse some of its layouts.
sanitize-threads: .venv/dev
	FASTPIXCON_BUILD=cpu FASTPIXCON_SANITIZE=thread $(BIN)/python -W ignore setup.py --quiet build
	$(call FUZZ,build/sanitize-thread) TSAN_OPTIONS=$(TSAN) \
	LD_PRELOAD="$(call LIBRARY,libtsan.so) $(call LIBRARY,libstdc++.so)" \
	setarch -R ../$(BIN)/python -m fuzz $(ARGS)

soak: set-up
	$(BIN)/python bench/single/soak.py $(ARGS)

# Needs neither the extension nor a GPU.
docs: .venv/dev
	PYTHONWARNINGS=ignore $(BIN)/sphinx-build -W -n -q -b html docs build/docs $(ARGS)

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CPP) $(OTHER_CPP)
	$(BIN)/mypy

format: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP) $(OTHER_CPP)

bench: set-up-bench
	$(BIN)/fastpixcon bench $(ARGS)

# The compiler works while pip downloads.
set-up:
	@+$(MAKE) -s -j 2 .venv/train $(USED_KERNELS)

set-up-test:
	@+$(MAKE) -s -j 2 .venv/mmseg $(TESTED_KERNELS)

set-up-bench:
	@+$(MAKE) -s -j 2 .venv/bench $(USED_KERNELS)

# A stamp in .venv for each step, written at its end: what was interrupted is done again.
.venv/tools:
	$(STEP) venv "a Python of its own, in .venv" \
	sh -c '$(BIN)/python -m pip --version || exec $(PYTHON) -m venv --clear .venv'
	$(STEP) torch "PyTorch, a minute or two" $(PIP) torch torchvision setuptools ninja
	@touch $@

EDITABLE = env FASTPIXCON_BUILD=0 $(PIP) --no-build-isolation --editable

.venv/train: .venv/tools pyproject.toml
	$(STEP) train "what training needs" $(EDITABLE) ".[train]"
	@touch $@

.venv/dev: .venv/tools pyproject.toml
	$(STEP) dev "what tests, linters and documentation need" $(EDITABLE) ".[train,dev]"
	@touch .venv/train $@

# mmsegmentation without what it would pull: a compiled mmcv, for which tests/adapters/mmseg_here.py has a stand-in. As tried.
MMSEG = mmsegmentation==1.2.2 mmengine==0.10.7 mmcv-lite==2.1.0 opencv-python-headless==5.0.0.93 addict==2.4.0 \
	yapf==0.43.0 termcolor==3.3.0 ftfy==6.3.1 prettytable==3.18.0 wcwidth==0.9.4 platformdirs

.venv/mmseg: .venv/dev
	$(STEP) mmseg "mmsegmentation, for the tests of its adapter" $(PIP) --no-deps $(MMSEG) && touch $@ || \
	echo "mmsegmentation can't be installed: its tests are skipped"

.venv/bench: .venv/tools pyproject.toml
	$(STEP) bench "the peers of the benchmarks" $(EDITABLE) ".[train,bench]"
	@touch .venv/train $@

# Also built when a source is added or removed, which changes the folder. Named for what is in it: cpu, cuda-9.0,
# cuda-all-tests.
PART = $(word $(1),$(subst -, ,$*))
ARCHITECTURES = $(subst _,;,$(filter-out all tests,$(call PART,2)))
.venv/built-%: .venv/tools setup.py $(CPP) $(sort $(dir $(CPP)))
	@rm -f .venv/built-*
	$(STEP) kernels "kernels for CPUs$(if $(filter cuda%,$*), and GPUs of $(if $(ARCHITECTURES),capability $(ARCHITECTURES),every kind)$(COMMA) some minutes,$(COMMA) a minute)" \
	env FASTPIXCON_BUILD=$(call PART,1) TORCH_CUDA_ARCH_LIST="$(ARCHITECTURES)" FASTPIXCON_PRECOMPILE=1 \
	FASTPIXCON_BUILD_TESTS=$(if $(filter %-tests,$*),1,0) $(BIN)/python setup.py --quiet build_ext --inplace
	@touch $@

clean:
	rm -rf build dist docs/_made *.egg-info fastpixcon/_C*.so .pytest_cache .hypothesis .mypy_cache .ruff_cache .venv/built-*
	find fastpixcon kernels tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
