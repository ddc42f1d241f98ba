# Sourced by tools/demo and tools/test: one virtual environment, with what pyproject.toml names and nothing else.
# PYTHON chooses the interpreter (3.11 to 3.14), VENV the place; both have defaults.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# pythons: every Python of 3.11 to 3.14 that runs here, one a line, the newest version first. An entry on PATH that only
# says that it is not installed does not count; what pyenv has counts without one.
pythons() {
  local minor each
  for minor in 14 13 12 11; do
    for each in "python3.$minor" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3."$minor"*/bin/"python3.$minor"; do
      if "$each" -c "import venv, sys; assert sys.version_info[:2] == (3, $minor)" 2>/dev/null; then
        echo "$each"
        break
      fi
    done
  done
}

# default_python: `python3` where it is new enough, else the oldest that is.
default_python() {
  if python3 -c 'import venv, sys; assert (3, 11) <= sys.version_info[:2] < (3, 15)' 2>/dev/null; then
    echo python3
  else
    pythons | tail -n 1
  fi
}

VENV=${VENV:-.venv}
stamp="$VENV/.fmshards-$(sha256sum pyproject.toml | cut -c1-16)"
if [ ! -e "$stamp" ]; then
  PYTHON=${PYTHON:-$(default_python)}
  if [ -z "$PYTHON" ]; then
    echo "no Python of 3.11 to 3.14 is found; name one: PYTHON=/path/to/python3.12 $0" >&2
    exit 1
  fi
  echo "setting up $VENV for $("$PYTHON" --version) (the packages are about 3 GB to fetch the first time)"
  "$PYTHON" -m venv "$VENV"
  "$VENV/bin/python" -m pip install --quiet --upgrade pip
  "$VENV/bin/python" -m pip install --quiet torch torchvision
  "$VENV/bin/python" -m pip install --quiet --editable '.[dev]'
  touch "$stamp"
fi
PATH="$(cd "$VENV/bin" && pwd):$PATH"
# With more busy processes than cores, OpenMP threads that spin while they wait made training eight times slower.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
