#!/usr/bin/env bash
# Makes .venv in the checkout and installs seg there with the extras named:
#     bash launch/venv.sh train,dev
# A stamp in .venv remembers what was installed, so a second call is free.
# PYTHON=... chooses the interpreter that the environment is made from.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
extras="${1:?usage: bash launch/venv.sh EXTRA[,EXTRA...]}"
venv="$PWD/.venv"

fail() {
  echo "error: $*" >&2
  exit 2
}

recent() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
  local name
  for name in ${PYTHON:-python3.11 python3.12 python3.13 python3 python}; do
    if recent "$name"; then
      echo "$name"
      return
    fi
  done
  fail "no Python 3.11 or later found${PYTHON:+ at PYTHON=$PYTHON};" \
    "install one, or name it: PYTHON=/path/to/python3 bash launch/..."
}

# Debian splits ensurepip off into python3-venv; where only python3-pip is
# there, that pip can fill an environment made without one.
make_venv() {
  local python
  python="$(find_python)"
  echo "making .venv with $("$python" --version)"
  if "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    "$python" -m venv --clear "$venv"
  elif "$python" -c 'import pip, venv' 2>/dev/null; then
    "$python" -m venv --clear --without-pip "$venv"
    "$python" -m pip --python "$venv/bin/python" install -q pip
  else
    fail "$python cannot make environments; install its venv module" \
      "(Debian, Ubuntu: apt-get install python3-venv) and run this again"
  fi
}

# What an installation depends on: place, interpreter, metadata, versions.
setup_digest() {
  {
    echo "$venv"
    "$venv/bin/python" --version
    cat setup.cfg pyproject.toml launch/constraints.txt
  } | cksum
}

installed() {
  local digest have extra
  [ -f "$venv/seg-setup" ] || return 1
  { read -r digest && read -r have; } <"$venv/seg-setup" || return 1
  [ "$digest" = "$(setup_digest)" ] || return 1
  for extra in ${extras//,/ }; do
    case ",$have," in *",$extra,"*) ;; *) return 1 ;; esac
  done
}

# One after the other, where two commands start at once in one checkout.
if command -v flock >/dev/null; then
  exec 9<setup.cfg
  flock 9
fi
"$venv/bin/python" -m pip --version >/dev/null 2>&1 || make_venv
if ! installed; then
  echo "installing seg[$extras] into .venv (some minutes the first time)"
  rm -f "$venv/seg-setup"
  "$venv/bin/python" -m pip install --quiet --no-input --no-compile \
    --disable-pip-version-check --editable ".[$extras]" \
    --constraint launch/constraints.txt
  printf '%s\n%s\n' "$(setup_digest)" "$extras" >"$venv/seg-setup"
fi
