# `make demo` runs the pipeline to the report; `make test` runs the tests. Both set everything up first. `make ui`
# serves Prefect's UI and the report on this machine.
#   make demo                                         what params.yaml says: the demo, as it comes
#   make demo PROFILE=photos IMAGES=my_photos.zip     your own photographs
#   make demo PROFILE=demo SET="textspan.size=8"      a profile with settings on top
#   make test STAGE=textspan                          one stage alone
PYTHON ?= python3.11
PROFILE ?=
IMAGES ?=
SET ?=
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export DO_NOT_TRACK := 1
# where an environment forbids bytecode, each stage would compile all its libraries anew: 15 s a stage
export PYTHONDONTWRITEBYTECODE :=
SETTINGS := $(if $(IMAGES),"photos.path=$(IMAGES)") $(SET)

.PHONY: demo test ui lint bench lock clean help
help:
	@grep -E '^#   ' Makefile; echo "  targets: demo test ui lint bench lock"

demo: .venv/installed
	$(if $(PROFILE)$(SETTINGS),optogram profile $(or $(PROFILE),$(if $(IMAGES),photos,demo)) $(SETTINGS),@head -n 1 params.yaml)
	@dvc pull --quiet train_clip train_classifier 2>/dev/null || echo "A shipped checkpoint does not fit these params: the run trains one."
	dvc repro
	@echo "The report: file://$(CURDIR)/artifacts/report/index.html"

test: .venv/installed
	pytest -n 2 $(if $(STAGE),tests/stages -k "[$(STAGE)] or [$(STAGE)-")

ui: .venv/installed
	@optogram ui

lint: .venv/installed
	ruff check && ruff format --check && pyright && codespell && optogram sync --check

bench: .venv/installed
	python -m benchmarks

lock: .venv/installed
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate requirements.in -o requirements.lock

clean:
	rm -rf artifacts .scratch

# uv goes into the project's own environment, and then everything else at its pinned, hashed version
.venv/installed: requirements.lock
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install -q --disable-pip-version-check "uv>=0.8"
	VIRTUAL_ENV=$(CURDIR)/.venv .venv/bin/uv pip install -q --require-hashes -r requirements.lock
	VIRTUAL_ENV=$(CURDIR)/.venv .venv/bin/uv pip install -q --no-deps -e .
	touch $@
