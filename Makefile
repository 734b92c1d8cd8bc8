# Sparsity Lab. `make` alone lists what it can do.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
CORE := $(VENV)/.installed
DEV := $(VENV)/.installed-dev

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help lab app install megablocks test notebooks gallery course grade wheel bench gpu mutants lint format constraints clean distclean

help: ## List these commands
	@echo "Sparsity Lab"
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo "Settings, as in 'make lab PORT=9000':"
	@awk '/^## [A-Z_]+=/ { sub(/^## /, ""); split($$0, a, "  "); printf "  %-17s %s\n", a[1], substr($$0, length(a[1]) + 3) }' $(firstword $(MAKEFILE_LIST))

## HEADLESS=1  lab, app: serve without opening a browser
## PORT=9000  lab, app: the port to serve on
## IP=0.0.0.0  lab, app: the address to serve on, for containers; the default, 127.0.0.1, is this machine only
## LAB_ARGS=...  lab: more options for JupyterLab
## SUBMISSIONS=dir  grade: what students handed in, a folder or zip file: dir/STUDENT/ASSIGNMENT/ASSIGNMENT.ipynb, Canvas's or Moodle's
## ROSTER=roster.csv  grade: your students, e.g. from Canvas or Moodle
## ARGS=...  test, notebooks, gallery, grade, bench, gpu, mutants: options for the program behind the command; `make test` then runs only `pytest ARGS`
## PYTHON=python3.12  the Python that .venv is made with; gpu: one whose torch has CUDA, if .venv's has not
## VENV=dir  the environment, if it is not to be .venv; no spaces
## TORCH_INDEX=URL  first installation: an extra package index, e.g. https://download.pytorch.org/whl/cpu (see below)

# --- Use ------------------------------------------------------------------------------------------------------------

IP ?= 127.0.0.1
SERVER = $(if $(filter-out 0,$(HEADLESS)),--no-browser) $(if $(PORT),--port=$(PORT))

lab: $(CORE) ## Install what is needed and open the first notebook in JupyterLab
	@$(PY) -m sparsity_lab lab --ip=$(IP) $(SERVER) $(if $(LAB_ARGS),--jupyter $(LAB_ARGS))

app: $(CORE) ## Install what is needed and open only the dashboard, for you or a class (see docs/app.md)
	@echo "==> The dashboard, served on $(IP); Ctrl-C ends it"
	@$(PY) notebooks/app/serve.py --Voila.ip=$(IP) $(SERVER)

notebooks: $(CORE) ## Execute every notebook, with its figures, into build/notebooks
	@echo "==> Executing the notebooks into build/notebooks"
	$(VENV)/bin/sparsity-lab notebooks --out build/notebooks $(ARGS)

gallery: $(CORE) ## Execute every notebook in full (half an hour; resumes) and write web pages that need no Python into build/gallery
	@echo "==> Executing the notebooks in full into build/full"
	$(VENV)/bin/sparsity-lab notebooks --pages --profile full --out build/full $(ARGS)
	@echo "==> Writing the gallery; its first page is build/gallery/index.html"
	$(VENV)/bin/sparsity-lab gallery --notebooks build/full --out build/gallery

course: $(CORE) ## Write the students' assignments into build/release, and the suite with them into build/students
	@echo "==> Writing assignments, without solutions and hidden tests, into build/release"
	$(VENV)/bin/sparsity-lab course build --out build

grade: $(CORE) ## Run submissions in a sandbox; write marks and feedback into build/marks
	@[ -n "$(SUBMISSIONS)" ] || { echo "Name the folder of submissions: make grade SUBMISSIONS=dir" >&2; exit 2; }
	@echo "==> Grading $(SUBMISSIONS) into build/marks"
	$(VENV)/bin/sparsity-lab course grade "$(SUBMISSIONS)" --out build/marks $(if $(ROSTER),--roster "$(ROSTER)") $(ARGS)

wheel: $(CORE) ## Build a wheel with notebooks and data into dist, for those who have no repository
	@echo "==> Building a wheel into dist. To use it: 'pip install' it on any machine, then 'sparsity-lab lab FOLDER'"
	$(PY) -m pip wheel --disable-pip-version-check -q --no-deps --no-build-isolation --wheel-dir dist .

# --- Checks ---------------------------------------------------------------------------------------------------------

has_browser = $(PY) -c 'import sys; from sparsity_lab.cli.doctor import find_browser; sys.exit(not find_browser())'
get_browser = $(has_browser) || { echo "==> Getting Playwright's Chromium"; $(PY) -m playwright install chromium >/dev/null 2>&1; }

test: $(DEV) ## Run all tests: units and notebooks, then JupyterLab in Chromium, which is downloaded if there is none
ifneq ($(ARGS),)
	@echo "==> Running the tests you chose"
	$(PY) -m pytest $(ARGS)
else
	@echo "==> Testing the units and the notebooks"
	$(PY) -m pytest -n 2 tests --ignore=tests/browser
	@echo "==> Testing JupyterLab in Chromium"
	@$(get_browser); if $(has_browser); then $(PY) -m pytest -n 2 tests/browser; \
	elif [ "$$CI" = true ]; then echo "The browser tests need Chromium: sudo apt install chromium libatomic1" >&2; exit 1; \
	else echo "Skipped the browser tests: Chromium is missing and can't be downloaded. To run them: sudo apt install chromium libatomic1"; fi
endif

bench: $(DEV) ## Measure speed, as ratios within one run
	@echo "==> Measuring; a quiet machine gives steadier numbers"
	$(PY) -m benchmarks $(ARGS)

# Minutes on a GPU are few, so nothing is installed that a Python here already has: PYTHON or .venv, whose torch sees the GPU.
gpu: ## Measure what needs an NVIDIA GPU, in 8 minutes, into build/gpu/report.md; ARGS=--plan lists the steps
	@command -v "$(PYTHON)" >/dev/null || { echo "No $(PYTHON) found: name one, as in make gpu PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -m benchmarks.gpu $(ARGS)

# Which files are changed, and which tests have to notice, is in pyproject.toml. mutmut is not among the developers' tools,
# because few need it.
MUTMUT := mutmut>=3.8,<4
mutants: $(DEV) ## Change the code in one place at a time, and see whether a test notices
	@$(PY) -c 'import mutmut' 2>/dev/null || { echo "==> Installing mutmut"; $(PY) $(PIP_INSTALL) -q -c constraints.txt "$(MUTMUT)"; }
	@echo "==> Running the tests once, then with every change; results stay in mutants/, and the next time the rest is run"
	$(PY) -m mutmut run --max-children 2 $(ARGS)
	@$(PY) -m mutmut results | grep -v ': not checked' || true

STRIP = $(PY) -m nbstripout --keep-id --extra-keys "metadata.papermill cell.metadata.papermill"
EACH_NOTEBOOK = find notebooks -name '*.ipynb' -not -path '*/.ipynb_checkpoints/*' -exec

lint: $(DEV) ## Check style and types, and that notebooks are stripped
	@echo "==> Checking style, types and notebooks"
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(EACH_NOTEBOOK) $(STRIP) --verify {} +

format: $(DEV) ## Format the code, strip the notebooks, write the glossary
	@echo "==> Formatting the code, stripping the notebooks, writing the glossary"
	$(PY) -m ruff check --fix-only .
	$(PY) -m ruff format .
	$(EACH_NOTEBOOK) $(STRIP) {} +
	$(PY) docs/glossary.py

# --- Installation ---------------------------------------------------------------------------------------------------
# Only the stamp, which names the folder it was made in, means "installed": an environment that was never finished, was
# moved, or has lost its Python is made again, if it bears the mark of one that was made here.

MARK := $(VENV)/.made-by-make
usable = [ ! -L $(VENV) ] && [ -x $(PY) ] && [ "$$(cat $(CORE) 2>/dev/null)" = "$(CURDIR)" ]
ifneq ($(shell $(usable) && echo yes),yes)
$(CORE) $(DEV): FORCE
FORCE:
endif

# Fails for a link, and for whatever else was not made here: make empties neither.
define check_ours
if [ -L $(VENV) ]; then what="a link"; \
elif [ -e $(VENV) ] && [ ! -e $(MARK) ] && [ ! -e $(CORE) ] && { [ ! -d $(VENV) ] || [ -n "$$(ls -A $(VENV))" ]; }; \
then what="not made by this Makefile"; else what=; fi; \
[ -z "$$what" ] || { echo "$(VENV) is $$what, so it is left alone. Rename or remove it, or name another: make VENV=.venv-lab" >&2; exit 1; }
endef

define CHECK_PYTHON
import sys
version = "%d.%d" % sys.version_info[:2]
if sys.version_info < (3, 11):
    sys.exit("Sparsity Lab needs Python 3.11 or newer, and $(PYTHON) is %s. Name a newer one: make PYTHON=python3.12" % version)
try:
    import ensurepip
except ImportError:
    sys.exit("$(PYTHON) cannot make virtual environments yet. On Debian or Ubuntu: sudo apt install python%s-venv" % version)
endef
export CHECK_PYTHON

define check_python
command -v "$(PYTHON)" >/dev/null || { echo "No $(PYTHON) found. Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }; \
"$(PYTHON)" -c "$$CHECK_PYTHON"
endef

# The mark comes first and stays, whenever this is cut off.
define make_venv
@$(check_ours); $(usable) || { echo "==> Making $(VENV)"; { $(check_python); } && mkdir -p $(VENV) && touch $(MARK) && \
  find $(VENV)/. -maxdepth 1 ! -name . ! -name .made-by-make -exec rm -rf {} + && "$(PYTHON)" -m venv $(VENV); }
endef

# pip's own settings decide where packages come from. On Linux the usual index has torch with CUDA, which takes several GB.
# Without an NVIDIA GPU, `make lab TORCH_INDEX=https://download.pytorch.org/whl/cpu` installs the small one.
PIP_INSTALL = -m pip install --disable-pip-version-check $(if $(TORCH_INDEX),--extra-index-url "$(TORCH_INDEX)")

# MegaBlocks pins torch 2.7, so it cannot stand in one list of dependencies with our torch, but it runs with our torch too.
# It needs Triton, which has wheels only for Linux. It is built without pip's cache, because pip would reuse a wheel that was
# built without CUDA on a machine that has CUDA. If its setup finds CUDA it asks for a GPU, so without one it finds a torch
# that knows of no CUDA. It finds that too where its compiled pieces can't be built, as with CUDA 13, which no longer
# takes all that they pass to it.
MEGABLOCKS := megablocks==0.10.0 stanford-stk==0.7.1
define install_megablocks
{ echo "==> Installing MegaBlocks"; $(PY) $(PIP_INSTALL) -q setuptools wheel && \
  { { command -v nvidia-smi >/dev/null && $(get_megablocks); } || { $(no_cuda) && $(get_megablocks); }; }; }
endef
get_megablocks = $(PY) $(PIP_INSTALL) -q --no-deps --no-build-isolation --no-cache-dir $(MEGABLOCKS)
define no_cuda
mkdir -p $(VENV)/no-cuda/torch/utils && echo '__version__ = "cpu"' > $(VENV)/no-cuda/torch/__init__.py && \
echo "BuildExtension = CUDAExtension = CUDA_HOME = None" > $(VENV)/no-cuda/torch/utils/cpp_extension.py && \
export PYTHONPATH="$$(cd $(VENV)/no-cuda && pwd)"
endef

define try_megablocks
@[ "$$(uname -s 2>&1)" != Linux ] || $(install_megablocks) || \
  echo "MegaBlocks could not be installed: its backend is missing, but everything else works. 'make megablocks' tries again" >&2
endef

megablocks: $(CORE) ## Install MegaBlocks again, if it could not be installed the first time (Linux)
	@[ "$$(uname -s 2>&1)" = Linux ] || { echo "MegaBlocks needs Triton, which has packages only for Linux" >&2; exit 1; }
	@$(install_megablocks)
	@echo "==> MegaBlocks is installed"

# Two installations at a time would tear each other's files, so the second waits for the first. The lock is the operating
# system's, on a file that is there anyway: it ends with whoever holds it, however that ends.
define HOLD_LOCK
import fcntl, os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
file = open("pyproject.toml", "r+")
try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    print("==> Another make is installing here; waiting for it", flush=True)
    fcntl.flock(file, fcntl.LOCK_EX)
os.set_inheritable(file.fileno(), True)
os.execvp(sys.argv[1], sys.argv[1:])
endef
export HOLD_LOCK

ifndef LOCKED
$(CORE) $(DEV): pyproject.toml constraints.txt
	@$(check_ours); { $(usable) && command -v "$(PYTHON)" >/dev/null; } || { $(check_python); } && \
	  "$(PYTHON)" -c "$$HOLD_LOCK" $(MAKE) --no-print-directory LOCKED=1 $@
else
$(CORE): pyproject.toml constraints.txt
	$(make_venv)
	@echo "==> Installing Sparsity Lab into $(VENV): a few minutes the first time"
	$(PY) $(PIP_INSTALL) -c constraints.txt -e .
	$(try_megablocks)
	@echo "$(CURDIR)" > $(CORE)

$(DEV): pyproject.toml constraints.txt
	$(make_venv)
	@echo "==> Installing Sparsity Lab and its tests' tools into $(VENV): a few minutes the first time"
	$(PY) $(PIP_INSTALL) -c constraints.txt -e ".[dev]"
	$(try_megablocks)
	@echo "$(CURDIR)" > $(CORE) && cp $(CORE) $(DEV)
endif

install: $(DEV) ## Install everything, developers' tools too, into .venv
	@echo "==> Everything is installed in $(VENV)"

# The pins are resolved for the oldest supported Python, so that they suit every one: some packages want a later 3.11.
define WRITE_PINS
import json, re
found = [package["metadata"] for package in json.load(open("build/pins.json"))["install"]]
pins = {package["name"]: package["version"].split("+")[0] for package in found}
left_out = re.compile("sparsity.lab|nvidia|cuda|triton")
with open("constraints.txt", "w") as file:
    print("# Made by `make constraints`: what `pip install -e .[dev]` installs, without the parts of CUDA.", file=file)
    for name in sorted(pins, key=str.lower):
        if not left_out.match(name):
            print(f"{name}=={pins[name]}", file=file)
endef
export WRITE_PINS

constraints: ## Write the versions that pyproject.toml resolves to into constraints.txt
	@echo "==> Resolving pyproject.toml"
	@$(check_python)
	"$(PYTHON)" -m venv --clear build/pins
	build/pins/bin/python $(PIP_INSTALL) --dry-run --ignore-installed --report build/pins.json \
	  --python-version 3.11.0 --only-binary=:all: --target build/pins/target ".[dev]"
	@echo "==> Writing constraints.txt"
	@"$(PYTHON)" -c "$$WRITE_PINS"
	@rm -rf build/pins build/pins.json

# --- Tidying --------------------------------------------------------------------------------------------------------

clean: ## Remove build outputs and caches
	@echo "==> Removing build outputs and caches"
	rm -rf build dist mutants *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -path ./$(VENV) -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -prune -exec rm -rf {} +

distclean: clean ## Remove .venv as well
	@$(check_ours)
	@echo "==> Removing $(VENV)"
	rm -rf $(VENV)
