# Tutelage. `make help` lists the targets. Everything installs into .venv.
PYTHON ?= python3
COMMA := ,
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
STUBS := clients/python/tutelage/v1
PROTOS := $(wildcard protos/tutelage/*/*.proto protos/tutelage/*/*/*.proto)

.DEFAULT_GOAL := help
.PHONY: help native run demo tensorboard test learn bench-serve soak bench-replay bench-train bench-demo bench-outcomes lint format type proto k8s-check clean

help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-zA-Z0-9_-]+:.*## / {printf "  \033[1m%-12s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.run: pyproject.toml clients/python/pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Tutelage needs Python 3.11 or newer; say make PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (a few minutes the first time) …"
	@$(PIP) install --quiet -c constraints.txt -e clients/python -e '.[all]'
	@touch $@

$(VENV)/.dev: $(VENV)/.native
	@$(PIP) install --quiet -c constraints.txt -e clients/python -e '.[all,dev]'
	@touch $@

# Compiled for the machine at hand, so built where a compiler and gRPC's headers are, and done
# without elsewhere: nothing but speed depends on it.
$(VENV)/.native: $(VENV)/.run $(wildcard services/transport/*.t* services/transport/src/* services/transport/tutelage_transport/*.py*)
	@$(MAKE) --no-print-directory native
	@touch $@

native: $(VENV)/.run ## Build the inference service's native transport, if there is what it needs
	@if ! { command -v c++ && command -v pkg-config && pkg-config --exists grpc++; } >/dev/null 2>&1; then \
	  echo "Native transport not built, Act is served by grpc.aio (Debian: apt-get install g++ pkg-config libgrpc++-dev)"; \
	elif echo "Building the native transport (a minute) …"; \
	  ! $(PIP) install --quiet ./services/transport >$(VENV)/native.log 2>&1; then \
	  echo "Native transport not built, Act is served by grpc.aio; the reason is in $(VENV)/native.log"; \
	fi

run: $(VENV)/.native ## Start everything: Redis, trainer, inference, feedback, pages
	@exec $(BIN)/tutelage up

demo: $(VENV)/.native ## The four journeys unattended, with a table of what was measured
	@exec $(BIN)/tutelage demo

tensorboard: $(VENV)/.run ## The curves of all runs in TensorBoard, http://127.0.0.1:6006
	@exec $(BIN)/tensorboard --logdir "$${TUTELAGE_DATA_DIR:-var}/tensorboard" --host 127.0.0.1

# One thread of arithmetic each: processes of two threads on two cores would wait for each other. Three
# processes for two cores, as a test often waits for a service to start or to end.
test: $(VENV)/.dev ## All tests, in TEST_PROCESSES=3 processes
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(or $(TEST_PROCESSES),3) --dist loadfile

learn: $(VENV)/.dev ## Train the presets on many seeds (hours): ROWS=cartpole-dqn,acrobot-dqn SEEDS=3
	@$(BIN)/python tests/benchmarks/learn.py \
	  $(if $(ROWS),--rows $(subst $(COMMA), ,$(ROWS))) $(if $(SEEDS),--seeds $(SEEDS))

bench-serve: $(VENV)/.dev ## Act beside a bare C++ echo, grpc.aio and Triton (installed on demand): calls/s, µs
	@$(BIN)/python tests/benchmarks/bench_serve.py

soak: $(VENV)/.dev ## Ten minutes of load on inference: new versions, hostile callers, a Redis that dies
	@$(BIN)/python tests/benchmarks/soak_serve.py

bench-replay: $(VENV)/.dev ## The replay beside others (installed on demand): rows/s, µs a batch
	@$(BIN)/python tests/benchmarks/bench_replay.py

bench-train: $(VENV)/.dev ## Training beside Stable-Baselines3: env steps/s, seconds to learn
	@$(BIN)/python tests/benchmarks/bench_train.py

bench-demo: $(VENV)/.dev ## The demo for 8 seeds: what people's labels made of 8 policies
	@$(BIN)/python tests/benchmarks/bench_demo.py

bench-outcomes: $(VENV)/.dev ## How an untrained policy gets better by what its own clients report
	@$(BIN)/python tests/benchmarks/own_traffic.py

lint: $(VENV)/.dev ## ruff and the import layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

format: $(VENV)/.dev ## Format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

type: $(VENV)/.dev ## mypy, strict
	@$(BIN)/mypy

proto: $(VENV)/.dev ## Regenerate the gRPC stubs from protos/
	@$(BIN)/python -m grpc_tools.protoc -I protos \
	  --python_out=clients/python --grpc_python_out=clients/python \
	  --mypy_out=quiet:clients/python --mypy_grpc_out=quiet:clients/python $(PROTOS)

k8s-check: $(VENV)/.dev ## Render the manifests and check them against the Kubernetes schemas
	@$(BIN)/python -m k8s.check

clean: ## Remove build products, not data and not the environment
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
