# One target, one command that you could type yourself. `make` alone lists them.
SHELL := /bin/sh
.DEFAULT_GOAL := help

PYTHON3 ?= python3
VENV := .venv
PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/.installed
MLFLOW_PORT ?= 5000
PREFECT_PORT ?= 4200
SERVE_PORT ?= 5001
PAGE_PORT ?= 5002
SERVE_HOST ?= 127.0.0.1
export MLFLOW_PORT PREFECT_PORT

# Starts with the cheap part of `make doctor`.
FLOW := $(PYTHON) -m flows.run

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^# --- / { gsub(/^# --- | -*$$/, ""); print "\n" $$0 } \
		/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' Makefile

# --- set-up ---------------------------------------------------------------------------------------

.PHONY: install
install: $(STAMP) ## create .venv and install the pinned requirements (skipped when nothing changed)

$(STAMP): requirements.txt pyproject.toml
	@echo 'Installing the pinned packages into $(VENV): minutes, up to 6 GB …'
	@test -x $(PYTHON) || $(PYTHON3) -m venv $(VENV)
	@$(PYTHON) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m ensurepip >/dev/null
	@$(PYTHON) -m uv --version >/dev/null 2>&1 || $(PYTHON) -m pip install --quiet uv
	@$(PYTHON) -m uv pip install $$(test -t 2 || echo --quiet) --python $(PYTHON) --compile-bytecode --require-hashes -r requirements.txt
	@$(PYTHON) -m uv pip install --quiet --python $(PYTHON) --no-deps --no-build-isolation -e .
	@touch $(STAMP)

.PHONY: settings
settings: install ## use ready settings: make settings FROM=examples/an4.yaml
	@$(PYTHON) -m flows.settings "$(FROM)"

.PHONY: doctor
doctor: install ## check pins, disk, locks, stores and servers, and say what to do
	@$(PYTHON) -m flows.doctor

# --- the pipeline ---------------------------------------------------------------------------------

.PHONY: demo
demo: install ## set-up, then the whole pipeline on generated speech
	@$(PYTHON) -m flows.doctor --quick --corpus commands
	$(FLOW)

.PHONY: run
run: install ## the whole pipeline, with the settings of params.yaml
	$(FLOW)

.PHONY: prepare
prepare: install ## stage: a corpus becomes data/prepared
	$(FLOW) --only prepare

.PHONY: fetch
fetch: install ## stage: registered models that the settings name; follows aliases that moved
	$(FLOW) --only fetch

.PHONY: teacher
teacher: install ## stage: the teacher, trained on the prepared data
	$(FLOW) --only teacher

.PHONY: cache
cache: install ## stage: the teacher's outputs for all training audio
	$(FLOW) --only cache

.PHONY: distill
distill: install ## stage: every student, and its control
	$(FLOW) --only distill

.PHONY: evaluate
evaluate: install ## stage: all models on the test split
	$(FLOW) --only evaluate

.PHONY: register
register: install ## stage: results and students into MLflow and its registry
	$(FLOW) --only register

# --- results --------------------------------------------------------------------------------------

.PHONY: ui
ui: install ## MLflow and Prefect in the browser, on loopback, until Ctrl-C
	@exec $(PYTHON) -m flows.servers.ui --mlflow-port $(MLFLOW_PORT) --prefect-port $(PREFECT_PORT) --page-port $(PAGE_PORT)

.PHONY: compare
compare: install ## print the leaderboard of all students that MLflow knows
	@$(PYTHON) -m flows.looking_back.compare

.PHONY: report
report: install ## a run as one HTML page: make report, or make report RUN=<MLflow run or version>
	@$(PYTHON) -m flows.looking_back.report $(if $(RUN),"$(RUN)")

.PHONY: reproduce
reproduce: install ## make a student again from its lineage and compare: RUN=<MLflow run or version> [FROM=teacher]
	@test -n "$(RUN)" || { echo 'error: which one? make reproduce RUN=3, RUN=models:/NAME@champion, or an MLflow run id' >&2; exit 2; }
	@$(PYTHON) -m flows.looking_back.reproduce $(if $(FROM),--from "$(FROM)") "$(RUN)"

# --- models ---------------------------------------------------------------------------------------

.PHONY: sample
sample: install ## write a clip of the test split to sample.wav, to try things with; another: INDEX=3
	@$(PYTHON) -m distillery.commands.main sample $(INDEX)

.PHONY: transcribe
transcribe: install ## recordings to text, with the champion: make transcribe FILES="a.wav b.flac", or DIR=folder OUT=texts.jsonl
	@test -n "$(FILES)$(DIR)" || { echo 'error: which recordings? make transcribe FILES="a.wav b.flac", or DIR=folder OUT=texts.jsonl' >&2; exit 2; }
	@$(PYTHON) -m distillery.commands.main transcribe $(if $(CHANNEL),--channel $(CHANNEL)) $(if $(HOT_WORD),--hot-word "$(HOT_WORD)") $(FILES) $(if $(DIR),"$(DIR)" --out "$(or $(OUT),transcripts.jsonl)")

.PHONY: score
score: install ## WER on your own labelled recordings, with the champion: make score DIR=folder, or with VERSION=3
	@test -n "$(DIR)" || { echo 'error: which recordings? make score DIR=folder, which holds manifest.csv with path,text[,speaker]; VERSION=3 takes another model' >&2; exit 2; }
	@$(PYTHON) -m distillery.commands.main score "$(DIR)" $(if $(VERSION),--version "$(VERSION)")

.PHONY: export
export: install ## a folder for another runtime: make export FORMAT=sherpa [VERSION=3] [OUT=folder]
	@test -n "$(FORMAT)" || { echo 'error: for which runtime? make export FORMAT=sherpa; VERSION=3 takes another model than the champion' >&2; exit 2; }
	@$(PYTHON) -m distillery.commands.main export "$(FORMAT)" $(if $(VERSION),--version "$(VERSION)") $(if $(OUT),--out "$(OUT)")

.PHONY: package
package: install ## a folder to hand over: card, example, forms for phones and browsers: [VERSION=3] [OUT=folder]
	@$(PYTHON) -m distillery.commands.main package $(if $(VERSION),--version "$(VERSION)") $(if $(OUT),--out "$(OUT)")

.PHONY: page
page: install ## a student as a web page, with microphone; npm fetches ONNX Runtime: [VERSION=3] [OUT=folder]
	@$(PYTHON) -m distillery.commands.main page $(if $(VERSION),--version "$(VERSION)") $(if $(OUT),--out "$(OUT)")

.PHONY: serve
serve: install ## serve the champion over HTTP, on loopback, until Ctrl-C
	@exec $(PYTHON) -m flows.servers.serve --host "$(SERVE_HOST)" --port $(SERVE_PORT)

.PHONY: champion
champion: install ## list the versions: which is champion, since when, and what the gate said
	@$(PYTHON) -m distillery.commands.main champion

.PHONY: promote
promote: install ## make a version champion by hand: make promote VERSION=3
	@test -n "$(VERSION)" || { echo 'error: which version? make promote VERSION=3; make champion lists them' >&2; exit 2; }
	@$(PYTHON) -m distillery.commands.main promote "$(VERSION)"

.PHONY: rollback
rollback: install ## swap the champion and the previous one
	@$(PYTHON) -m distillery.commands.main rollback

# --- retraining -----------------------------------------------------------------------------------

.PHONY: retrain
retrain: install ## retrain once, now, if anything is new; FORCE=1: in any case
	$(FLOW) --retrain $(if $(FORCE),--force)

.PHONY: schedule
schedule: install ## retrain when retraining.cron in params.yaml says, until Ctrl-C
	@exec $(PYTHON) -m flows.servers.schedule --prefect-port $(PREFECT_PORT)

.PHONY: week
week: install ## seven nights of retraining in minutes, in a clone under scratch/week
	@$(PYTHON) -m examples.week $(if $(OUT),--out "$(OUT)")

# --- studies --------------------------------------------------------------------------------------

.PHONY: curve
curve: install ## WER against hours of training audio, for students, controls and the teacher
	$(FLOW) --curve

.PHONY: teachers
teachers: install ## compare candidates for the teacher, by what a short distillation gains
	$(FLOW) --teachers

.PHONY: select
select: install ## which recordings to transcribe next, as a table to fill in: N=50 OUT=to-transcribe.csv
	@$(PYTHON) -m distillery.commands.main select $(or $(N),50) --out "$(or $(OUT),to-transcribe.csv)"

.PHONY: quality
quality: install ## a study of objectives, takes hours or days: make quality STUDY=an4_all SOURCE=data/raw/an4 JOBS=2 UNTIL=07:00
	@test -n "$(STUDY)" -a -n "$(SOURCE)" || { echo 'error: make quality STUDY=an4_all SOURCE=data/raw/an4; studies are the files benchmarks/quality/*.yaml' >&2; exit 2; }
	$(PYTHON) -m benchmarks.quality.study benchmarks/quality/$(STUDY).yaml --source $(SOURCE) $(if $(TEACHER),--teacher-model "$(TEACHER)") $(if $(JOBS),--jobs $(JOBS)) $(if $(UNTIL),--until $(UNTIL)) $(if $(CLAIMS),--claims $(CLAIMS))

.PHONY: bench
bench: install ## the benchmarks, on this workspace's teacher; results go to benchmarks/results
	$(FLOW) --until teacher
	@for file in benchmarks/*.py; do \
		case $$file in benchmarks/common.py|benchmarks/digits.py) continue ;; esac; \
		module=$$(echo $${file%.py} | tr / .); echo "$$module"; $(PYTHON) -m $$module || exit 1; \
	done

# --- stores ---------------------------------------------------------------------------------------

# ARGS="…" passes options: --json for programs, --help lists the others.
.PHONY: cache-stats
cache-stats: install ## what the teacher cache holds: utterances, hours, bytes, blank frames, shards
	@$(PYTHON) -m distillery.commands.main cache stats $(ARGS)

.PHONY: cache-verify
cache-verify: install ## read and check every record; ARGS=--repair removes what is damaged
	@$(PYTHON) -m distillery.commands.main cache verify $(ARGS)

.PHONY: cache-audit
cache-audit: install ## compare random utterances with the live teacher
	@$(PYTHON) -m distillery.commands.main cache audit $(ARGS)

.PHONY: cache-gc
cache-gc: install ## list what is no longer needed; ARGS=--delete deletes it
	@$(PYTHON) -m distillery.commands.main cache gc $(ARGS)

.PHONY: cache-compact
cache-compact: install ## merge small shards; ARGS=--dry-run only says what it would do
	@$(PYTHON) -m distillery.commands.main cache compact $(ARGS)

.PHONY: remote
remote: install ## one DVC remote for a team: make remote URL=/srv/speech, ssh://HOST/FOLDER or s3://BUCKET/PREFIX
	@test -n "$(URL)" || { echo 'error: where? make remote URL=/srv/speech, URL=ssh://HOST/FOLDER or URL=s3://BUCKET/PREFIX' >&2; exit 2; }
	@$(PYTHON) -m flows.remote "$(URL)"

.PHONY: dvc-verify
dvc-verify: install ## hash every object of DVC's cache; ARGS=--repair removes what is damaged
	@$(PYTHON) -m flows.stages.verify $(ARGS)

# --- development ----------------------------------------------------------------------------------

.PHONY: check
check: lint types ## lint, types and unit tests
	$(PYTEST) tests/unit

.PHONY: lint
lint: install ## ruff: format and rules
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .

.PHONY: types
types: install ## mypy
	$(PYTHON) -m mypy

.PHONY: test
test: install ## all tests
	$(PYTEST)

.PHONY: test-faults
test-faults: install ## the tests that docs/faults.md names: kills, full disks, broken input; slow ones, too
	$(PYTEST) -p tests.faults -m "slow or not slow" $$($(PYTHON) -m tests.faults)

.PHONY: audit
audit: install ## known vulnerabilities in the pinned packages, by pip-audit; needs pypi.org
	@$(PYTHON) -m flows.looking_back.audit

.PHONY: lock
lock: ## compile requirements.txt again from pyproject.toml
	$(PYTHON) -m uv pip compile pyproject.toml --extra demo --extra media --extra postgres --extra s3 --extra segment --extra transformers \
		--extra whisper --extra dev --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
		--custom-compile-command "make lock" -o requirements.txt

# As many processes as cores. A module stays in one of them, for its tests share what is costly to
# make, and tests/pipeline, which takes the longest, begins.
PYTEST := $(PYTHON) -m pytest -n auto --dist loadscope --no-loadscope-reorder
