# Two commands do everything on a fresh machine with Python 3.11+ and make: `make book` and `make test`.
PYTHON   ?= python3
PROFILE  ?= cpu
CHAPTERS ?= 01
EXTRAS   ?= book,grading,test

BIN   := .venv/bin
STAMP := .venv/.stamp
# Two torch processes on two cores are fastest with one thread each.
PARALLEL := env OMP_NUM_THREADS=1 MEDTUTOR_LIVE=0
NBVAL    := --nbval-lax --nbval-cell-timeout=120 -p no:cacheprovider

.PHONY: help env book run site pdf test lint unit chapters clean

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

env: $(STAMP)  ## the environment in .venv

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("medtutor needs Python 3.11 or newer") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[$(EXTRAS)]"
	touch $@

book: run  ## execute CHAPTERS (default 01) at PROFILE (default cpu) and build the site with their outputs
	$(BIN)/python -m medtutor.site --executed runs --profile $(PROFILE)

run: env  ## execute CHAPTERS at PROFILE; the executed copies are in runs/
	$(BIN)/medtutor run $(CHAPTERS) --profile $(PROFILE)

site: env  ## build the site from the stored outputs; prints where it is
	$(BIN)/python -m medtutor.site

pdf: env  ## the same, with each page and the whole book as PDF, where there is Chromium
	$(BIN)/python -m medtutor.site --pdf

test: lint unit chapters site  ## everything that CI checks
	$(BIN)/pytest -q tests/site

lint: env
	$(BIN)/ruff check .

unit: env
	$(PARALLEL) $(BIN)/pytest -q -n 2 --dist loadfile --ignore tests/site

chapters: env
	$(PARALLEL) MEDTUTOR_PROFILE=smoke $(BIN)/pytest -q -n 2 --dist loadfile $(NBVAL) chapters

clean:  ## remove everything that make creates
	rm -rf .venv node_modules _build runs .pytest_cache .ruff_cache .hypothesis .snakemake
