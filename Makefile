# `make` lists the commands. Everything is installed into .venv; nothing outside the checkout is touched but the cache folder.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help setup demo serve build test test-fast deploy-check benchmark reliability check clean

help: ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 13

setup: .venv/.server ## install the server, the client and the `lipsync` command into .venv

demo: .venv/.server ## start a Triton, send it a real person's speech, leave demo.mp4
	@exec $(BIN)/lipsync demo

serve: .venv/.server ## build what is missing and serve until Ctrl-C (settings: server.yaml)
	@exec $(BIN)/lipsync serve

build: .venv/.server ## make the ONNX models and the packed demo avatar
	@exec $(BIN)/lipsync build

test: .venv/.test ## run the whole test suite, but for deploy/
	@exec $(BIN)/python -m pytest -m "not deploy" $(PYTEST)

deploy-check: .venv/.deploy ## check all of deploy/: images, chart, Envoy, dashboards, alerts; needs Debian's package prometheus
	@exec $(BIN)/python -m pytest -m deploy tests/deploy $(PYTEST)

test-fast: .venv/.test ## run what needs no server, browser, PyTorch or wheel: under two minutes
	@exec $(BIN)/python -m pytest -m "not (server or browser or torch or wheel or deploy or slow)"

benchmark: .venv/.test ## measure speed and memory on this machine; writes docs/benchmarks.md
	@exec $(BIN)/python -m lipsync_studio.benchmark

reliability: .venv/.server ## attack, kill and load a server for two hours; writes docs/reliability.md
	@exec $(BIN)/python -m lipsync_server.reliability

check: .venv/.test ## formatter, linter, type checker, and who imports whom
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	for adapter in model_repository/*/1/model.py backends/*/model.py; do $(BIN)/mypy $$adapter || exit 1; done
	$(BIN)/lint-imports

clean: ## remove the build output and .venv; your own avatars stay
	rm -rf .venv build *.egg-info client/*.egg-info demo.mp4
	rm -rf model_repository/.build* model_repository/.avatars.lock model_repository/audio_encoder_int8
	rm -rf $(foreach model,audio_encoder lipsync lipsync_visual,model_repository/$(model)/1/*.onnx model_repository/$(model)/1/*.crops model_repository/$(model)/1/*.data)
	rm -rf model_repository/lipsync/avatar model_repository/lipsync/config.pbtxt model_repository/*/configs
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	$(PYTHON) -m venv --clear .venv || { rm -rf .venv; exit 1; }
	$(BIN)/python -m pip install --quiet --upgrade pip

.venv/.server: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[server,web]'
	@touch $@

.venv/.test: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[server,webrtc,otel,c2pa,pipecat,livekit,studio,test,dev]'
	@touch $@ .venv/.server

.venv/.deploy: deploy/requirements.txt .venv/.test
	$(BIN)/python -m pip install --quiet --requirement deploy/requirements.txt
	@touch $@
