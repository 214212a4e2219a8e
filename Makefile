# `make quickstart` and `make test`; `make docs` builds the site. Each does all its own set-up in .venv.
PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed
INSTALLED_DOCS := $(VENV)/.installed-docs
# pip compiles nothing here: Python keeps compiled what it imports, or each start of torch would take twice as long
unexport PYTHONDONTWRITEBYTECODE

.PHONY: quickstart test faults lint docs clean
.DEFAULT_GOAL := quickstart

quickstart: $(INSTALLED)
	$(VENV)/bin/fairseq-kd quickstart

test: lint
	$(VENV)/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# every kill, swap and damage of tests/faults, of which `make test` runs a small share
faults: $(INSTALLED)
	FAIRSEQ_KD_FAULTS=1 $(VENV)/bin/python -m pytest --numprocesses auto --maxprocesses 4 tests/faults \
		tests/integration/test_federated_run.py tests/unit/test_federated.py

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

# -W: a warning is an error; -n: so is a link to nothing
docs: $(INSTALLED_DOCS)
	$(VENV)/bin/python -m sphinx -W --keep-going -n -b html docs docs/_build/html
	@echo "the site is docs/_build/html/index.html"

$(INSTALLED_DOCS): $(INSTALLED)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $(INSTALLED_DOCS)

$(INSTALLED): setup.py pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' \
		|| { echo "fairseq_kd needs Python 3.11 or 3.12, found $$($(PYTHON) --version); give one: make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[fairseq,fast,search,study,report,collaboration,federated,pretrained,opusfilter,test]'
	touch $(INSTALLED)

clean:
	rm -rf $(VENV) docs/_build docs/api/generated
