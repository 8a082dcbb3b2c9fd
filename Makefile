# From a bare clone: `make up` runs the example, `make test` is what CI runs. Needs Python 3.11 or newer and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INPUTS := pyproject.toml hatch_build.py $(shell find tools/envoyapi -name '*.py' -o -name '*.proto')
CODE := $(wildcard lateen lateen_filter extauthz ratelimit ca filters tests benchmarks tools hatch_build.py)

# The generated package can be lost while the stamps remain: then install anew.
ifeq ($(wildcard lateen/envoyapi/__init__.py),)
$(shell rm -f $(VENV)/.installed $(VENV)/.installed-dev)
endif

.PHONY: up install dev lint test fuzz fuzz-wire test-deps bench clean

up: install
	@exec $(BIN)/lateen up envoy-configs/payments --stop-with-parent

install: $(VENV)/.installed

dev: $(VENV)/.installed-dev

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Lateen needs Python 3.11 or newer: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(INPUTS) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.installed-dev: $(INPUTS) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $(VENV)/.installed $@

lint: dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --strict $(CODE)
	$(BIN)/lint-imports

test: lint test-deps
	$(BIN)/python -m pytest -n 2 --dist loadgroup

# The fuzz tests of the suite with FACTOR times their budget.
FACTOR ?= 50
fuzz: dev
	LATEEN_FUZZ_FACTOR=$(FACTOR) $(BIN)/python -m pytest -m fuzz -n 2 --dist loadgroup --timeout 0
	$(MAKE) fuzz-wire

# Coverage-guided, RUNS times in all (some 3,000 a second): half of them the frames of lateen.wire, four tenths its header blocks, one tenth
# whole connections. The corpus is kept.
RUNS ?= 1000000
fuzz-wire: dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	set -e; for part in frames:5 headers:4 connection:1; do layer=$${part%:*}; mkdir -p .fuzz/$$layer; \
		$(BIN)/python -m tools.fuzz_wire $$layer -atheris_runs=$$(($(RUNS) / 10 * $${part#*:})) -print_final_stats=1 \
			-artifact_prefix=.fuzz/ .fuzz/$$layer; done

# Tests in network namespaces want ip and iptables (and root), the conformance suite of HTTP/2 wants go; without them they are skipped.
test-deps:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! { command -v ip && command -v iptables; } >/dev/null; then \
		apt-get update -qq && apt-get install -qq --yes --no-install-recommends iproute2 iptables \
		|| echo 'test-deps: not installed, tests in network namespaces will be skipped' >&2; \
	fi
	@if command -v go >/dev/null && ! { command -v h2spec || test -x "$$(go env GOPATH)/bin/h2spec"; } >/dev/null; then \
		timeout 180 go install github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible \
		|| echo 'test-deps: no h2spec, its test will be skipped' >&2; \
	fi

bench: dev
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) lateen/envoyapi .envoyapi-* build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
