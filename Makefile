# The words that everybody uses, CI included. `make help` lists them; every target sets the tree up first.

PY := .venv/bin/python
SEED ?= 0
MINUTES ?= 10
EXAMPLES ?=
KILLS ?= 200
PROFILE ?= default
JOBS ?= 2

.PHONY: help setup check test demo bench sim soak kills kills-shards programs clean

help:
	@echo "make setup            system packages (as root), .venv, the package with its test tools; the others run it first"
	@echo "make demo             the main job on real data: six disks, a mount, S3, two disks lost (about two minutes)"
	@echo "make test JOBS=2      all tests, so many side by side (FUSE, boto3 and aws-cli included)"
	@echo "make check            ruff, mypy --strict, and the tests of layers and purity"
	@echo "make bench            every benchmark, short, as ratios against the floor"
	@echo "make sim SEED=7       the simulated volume on one seed, replayable"
	@echo "make soak MINUTES=30  the simulated volume on new seeds until the time is up"
	@echo "make soak EXAMPLES=10000  the same until so many examples of the volume machine ran"
	@echo "make kills KILLS=200  kill -9 of a real daemon under writing clients; what it promised is compared"
	@echo "make programs         PostgreSQL and fio on a mount, git, rsync, tar and LMDB on shards (apt: postgresql, fio)"
	@echo "make kills-shards MINUTES=5  the same of shards and owner of a volume of three shards"

setup:
	@tools/setup.sh

check: setup
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(PY) -m pytest -q tests/unit/test_layers.py

test: setup
	$(PY) -m pytest -n $(JOBS) --dist worksteal

demo: setup
	$(PY) tools/demo.py

bench: setup
	$(PY) tools/bench.py

sim: setup
	$(PY) -m pytest tests/stateful --hypothesis-profile=$(PROFILE) --hypothesis-seed=$(SEED)

soak: setup
	$(PY) tools/soak.py $(if $(EXAMPLES),--examples $(EXAMPLES),--minutes $(MINUTES))

kills: setup
	$(PY) tools/kills.py --kills $(KILLS)

kills-shards: setup
	$(PY) tools/kill_shards.py --minutes $(MINUTES)

programs: setup
	$(PY) -m pytest tests/programs/postgres.py tests/programs/fio.py
	SILTSTONE_MOUNT=shards $(PY) -m pytest tests/system/test_mount_archives.py

clean:
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
