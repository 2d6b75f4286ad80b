# `make demo` runs the pipeline to the report; `make test` runs the tests. Both set everything up first. `make ui`
# serves Prefect's UI and the report on this machine.
#   make demo                                         what params.yaml says: the demo, as it comes
#   make demo PROFILE=full                            the demo at larger sizes
#   make demo PROFILE=photos IMAGES=my_photos.zip     your own photographs
#   make demo PROFILE=demo SET="textspan.size=8"      a profile with settings on top
#   make test STAGE=textspan                          one stage alone
PYTHON ?= python3.11
PROFILE ?=
IMAGES ?=
SET ?=
STAGE ?=
# As they are typed: make would expand $ in them, and a shell what stands in a recipe. So recipes read the environment.
override PYTHON := $(value PYTHON)
override PROFILE := $(value PROFILE)
override IMAGES := $(value IMAGES)
override SET := $(value SET)
override STAGE := $(value STAGE)
override PROFILE := $(or $(strip $(PROFILE)),$(if $(strip $(IMAGES)),photos,$(if $(strip $(SET)),demo)))
export PYTHON PROFILE IMAGES SET STAGE
# This checkout's own environment and code, whatever else is active, wherever the folder was when it was set up.
HERE := $(CURDIR)
export VIRTUAL_ENV := $(HERE)/.venv
export PATH := $(HERE)/.venv/bin:$(PATH)
export PYTHONPATH := $(HERE)
unexport PYTHONHOME
export DO_NOT_TRACK := 1
# where an environment forbids bytecode, each stage would compile all its libraries anew: 15 s a stage
export PYTHONDONTWRITEBYTECODE :=
# threads that wait leave their core to others: to the stages beside, and to the other half of a training's batch
export OMP_WAIT_POLICY := passive
RUN := .venv/bin/python .venv/bin/

.PHONY: demo test ui lint bench lock clean help
help:
	@grep -E '^#   ' Makefile; echo "  targets: demo test ui lint bench lock"

demo: .venv/installed
	@$(RUN)optogram profile $(if $(PROFILE),--images="$$IMAGES" --set="$$SET" -- "$$PROFILE")
	@$(RUN)optogram run --brief

test: .venv/installed
	$(RUN)pytest -n 2 --dist loadgroup $(if $(strip $(STAGE)),tests/stages -k "[$$STAGE] or [$$STAGE-")

ui: .venv/installed
	@$(RUN)optogram ui

lint: .venv/installed
	ruff check && ruff format --check && $(RUN)pyright && $(RUN)codespell && $(RUN)optogram sync --check

bench: .venv/installed
	.venv/bin/python -m benchmarks

lock: .venv/installed
	.venv/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate \
		--extra pipeline --extra dev pyproject.toml -o requirements.lock

clean:
	rm -rf artifacts .scratch

# uv goes into the project's own environment, and then everything else at its pinned, hashed version. What is installed
# knows the folder it was installed in, whose name .venv/installed keeps.
WAS := $(shell cat .venv/installed 2>/dev/null)
MOVED := $(if $(WAS),$(if $(findstring :$(WAS):,:$(HERE):),,moved))
.PHONY: moved
moved:
	@echo "This folder has another name than when .venv was set up: setting it up again."

.venv/installed: requirements.lock $(MOVED)
	@sh .ci/environment
	.venv/bin/python -m pip install -q --disable-pip-version-check "uv>=0.8"
	.venv/bin/uv pip install -q --require-hashes -r requirements.lock
	.venv/bin/uv pip install -q --no-deps -e .
	@printf %s "$$VIRTUAL_ENV" | sed 's,/.venv$$,,' >$@
