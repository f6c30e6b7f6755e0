# Each of the first two sets up everything it needs, from nothing, in .venv.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test lint clean

demo: .venv/ready
	$(BIN)/musedeep demo demo

# Two processes share the files of tests; those that start a batch system of their own come after them, alone.
test: .venv/ready
	status=0; \
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not cluster" || status=$$?; \
	$(BIN)/python -m pytest -m cluster || status=$$?; \
	exit $$status

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

clean:
	rm -rf .venv demo
