# Two words are enough: `make serve` runs the product, `make test` tests it. Both install what they need.

VENV    := .venv
BIN     := $(VENV)/bin
STAMP   := $(VENV)/installed
PYTHON  ?= $(shell for p in python3.12 python3.11 python3; do \
             $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null \
             && command -v $$p && break; done)
TORCH   := $(shell grep '^torch==' constraints.txt)
ALONE   := tests/unit tests/statistical tests/integration
CLUSTER := tests/e2e tests/clients
NO_TEST := 5
ARGS    ?=

.DEFAULT_GOAL := all
.PHONY: all install serve chat test check format proto bench load baselines k8s rehearse monitoring-check image-check browser-check lock pin-image diagrams clean help

all: check test  ## check + test

install: $(STAMP)  ## virtual environment in .venv with the pinned dependencies

$(STAMP): pyproject.toml constraints.txt locks/dev.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed: install one, or say make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Installing into $(VENV) with $(PYTHON) (about 2 minutes, once)"
	@$(PYTHON) -m venv $(VENV)
	@echo "  1/2 $(TORCH)" && $(BIN)/pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt "$(TORCH)"
	@echo "  2/2 everything else" && $(BIN)/pip install --quiet --quiet --disable-pip-version-check --require-hashes --requirement locks/dev.txt
	@$(BIN)/pip install --quiet --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

serve: $(STAMP)  ## serve the embedded demo pair on http://127.0.0.1:8000; a real one: make serve PAIR=smollm2; more: ARGS="--port 8080"
	@exec $(BIN)/adasd serve $(if $(PAIR),--pair $(PAIR)) $(ARGS)

chat: $(STAMP)  ## talk to a running server
	@exec $(BIN)/adasd chat $(ARGS)

test: $(STAMP)  ## every test: unit, statistical, integration, a real Ray cluster, end to end
	$(BIN)/python -m pytest $(ALONE) --numprocesses logical --dist loadfile $(ARGS) || [ $$? = $(NO_TEST) ]
	$(BIN)/python -m pytest $(CLUSTER) $(ARGS) || [ $$? = $(NO_TEST) ]

check: $(STAMP)  ## format, lint, types, import rules, freshness of the generated protocol code
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m services.transport.generate --check
	$(BIN)/python -m services.transport.compatibility --check

format: $(STAMP)  ## format the code and fix what the linter can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

proto: $(STAMP)  ## generate protocol code from protos/, refuse what would break old callers
	$(BIN)/python -m services.transport.compatibility
	$(BIN)/python -m services.transport.generate

bench: $(STAMP)  ## round time, start-up time, tokens per second; results in load_tests/baselines/
	$(BIN)/python -m load_tests $(ARGS)

load: $(STAMP)  ## a load test: make load SCENARIO=steady; more options: ARGS="--rate 10"
	@exec $(BIN)/adasd bench $(SCENARIO) $(ARGS)

baselines: $(STAMP)  ## steady, ramp, burst, mixed and soak on this machine; results in load_tests/baselines/ (15 minutes)
	$(BIN)/python -m load_tests.load.baselines --docs $(ARGS)

k8s: $(STAMP)  ## write the overlays from their topologies, the dashboards from their panels
	@for folder in k8s/overlays/*; do $(BIN)/adasd k8s render --topology $$folder/topology.yaml --cluster $$folder/cluster.yaml; done
	$(BIN)/python k8s/monitoring/dashboards.py

rehearse: $(STAMP)  ## the two-tier overlay on this machine: Ray nodes on loopback, serve deploy, a roll-out under load
	$(BIN)/adasd k8s rehearse $(ARGS)

monitoring-check: $(STAMP)  ## every rule and panel in a real Prometheus (apt-get install prometheus), promtool's tests
	$(BIN)/python k8s/monitoring/check_rules.py $(ARGS)

browser-check: $(STAMP)  ## the playground in a real browser (apt-get install chromium); pictures in build/screenshots
	@$(BIN)/pip install --quiet --quiet --disable-pip-version-check --require-hashes --requirement locks/browser.txt
	$(BIN)/python -m pytest tests/browser $(ARGS)

image-check: $(STAMP)  ## the Dockerfile's steps for CPUs in a bare virtual environment (minutes)
	TORCH_INDEX=$${TORCH_INDEX:-$${PIP_INDEX_URL:-https://pypi.org/simple}} $(BIN)/python k8s/image_steps.py $(ARGS)

lock: $(STAMP)  ## write locks/ anew from pyproject.toml and constraints.txt: every version with the hashes of its files
	$(BIN)/python locks/write.py

pin-image:  ## write the digest of the Dockerfile's base image behind its name (needs docker and a registry)
	python3 k8s/pin_image.py

diagrams:  ## render docs/diagrams/*.dot to SVG (apt-get install graphviz)
	@for source in docs/diagrams/*.dot; do { dot -Tsvg $$source; \
	  echo "<!-- rendered from sha256 $$(sha256sum < $$source | cut -d' ' -f1) -->"; } > $${source%.dot}.svg; done

clean:  ## remove the virtual environment and every cache
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help:  ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/\1|\2/' | while IFS='|' read -r t d; do printf '  make %-16s %s\n' "$$t" "$$d"; done
