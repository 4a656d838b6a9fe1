# make demo   the main job on this machine: device install and plots, no torch
# make test   lint, types, tests, and the wheel in an empty environment
# make bench-cifar | bench-step | bench-memory | bench-stream | bench-startup | bench-engines |
#      bench-method-memory | bench-bank | bench-drift |
#      bench-adaptation | bench-adaptation-quick
#             what README and docs claim
# make test-arm64  the device side on an emulated Raspberry Pi: pip, tests, runs, kills, memory

PYTHON ?= python3
DEMO := .venv-demo
TEST := .venv-test
INSTALL := -m pip install --quiet --constraint constraints.txt

.PHONY: demo test test-arm64 bench-cifar bench-step bench-memory bench-stream \
	bench-startup bench-engines bench-method-memory bench-bank bench-drift \
	bench-adaptation bench-adaptation-quick clean

demo: $(DEMO)/installed
	$(DEMO)/bin/edgemem demo

test: $(TEST)/installed
	$(TEST)/bin/ruff check .
	$(TEST)/bin/ruff format --check .
	sh tests/typecheck.sh $(TEST)
	$(TEST)/bin/pytest
	sh tests/empty_environment.sh $(TEST)

test-arm64: $(TEST)/installed
	sh tests/arm64/run.sh $(TEST)

bench-cifar: $(TEST)/installed
	$(TEST)/bin/python benchmarks/cifar10c.py

bench-step: $(TEST)/installed
	$(TEST)/bin/python benchmarks/step_cost.py

bench-memory: $(TEST)/installed
	$(TEST)/bin/python benchmarks/memory.py

bench-stream: $(TEST)/installed
	$(TEST)/bin/python benchmarks/stream_cost.py

bench-startup: $(TEST)/installed
	$(TEST)/bin/python benchmarks/startup.py

bench-engines: $(TEST)/installed
	$(TEST)/bin/python benchmarks/engines.py

bench-method-memory: $(TEST)/installed
	$(TEST)/bin/python benchmarks/method_memory.py

bench-adaptation: $(TEST)/installed
	PYTHONPATH=benchmarks $(TEST)/bin/python -m adaptation --out docs

bench-adaptation-quick: $(TEST)/installed
	PYTHONPATH=benchmarks $(TEST)/bin/python -m adaptation --quick

bench-bank: $(TEST)/installed
	$(TEST)/bin/python benchmarks/bank_fetch.py

bench-drift: $(TEST)/installed
	$(TEST)/bin/python benchmarks/bank_drift.py

$(DEMO)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/python $(INSTALL) --editable '.[plot]'
	touch $@

$(TEST)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(TEST)
	$(TEST)/bin/python $(INSTALL) 'setuptools>=77'
	$(TEST)/bin/python $(INSTALL) --editable '.[dev]'
	touch $@

clean:
	rm -rf $(DEMO) $(TEST) build dist results *.egg-info
