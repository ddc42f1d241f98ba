# Sourced by tools/demo and tools/test: one virtual environment, with what pyproject.toml names and nothing else.
# PYTHON chooses the interpreter (3.10 to 3.12), VENV the place; both have defaults.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV=${VENV:-.venv}
stamp="$VENV/.fmshards-$(sha256sum pyproject.toml | cut -c1-16)"
if [ ! -e "$stamp" ]; then
  echo "setting up $VENV (the packages are about 3 GB to fetch the first time)"
  "${PYTHON:-python3}" -m venv "$VENV"
  "$VENV/bin/python" -m pip install --quiet --upgrade pip
  "$VENV/bin/python" -m pip install --quiet torch torchvision
  "$VENV/bin/python" -m pip install --quiet --editable '.[dev]'
  touch "$stamp"
fi
PATH="$(cd "$VENV/bin" && pwd):$PATH"
# With more busy processes than cores, OpenMP threads that spin while they wait made training eight times slower.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
