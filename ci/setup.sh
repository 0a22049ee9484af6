#!/usr/bin/env bash
# Make or update the virtual environment of this checkout, and say where its Python is.
#
#   source ci/setup.sh none        what a user needs: the package and its dependencies
#   source ci/setup.sh dev,docs    and the tools of the tests and of the documentation
#
# Sourced, it exports PYTHON; run, it prints the path. It makes .venv with the first Python 3.11 or newer that it finds
# (or the one that CONFORM_PYTHON names), and installs only when pyproject.toml, the constraints or the place of the
# checkout have changed. pip's own environment variables (index, certificates, find-links) reach pip untouched.
# Name the extras always: a sourced script without arguments would see those of its caller.

conform_setup() {
    local root venv fingerprint extra missing="" extras="${1:-none}"
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P) || return 1
    venv="$root/.venv"
    case "$extras" in
        none | dev | docs | dev,docs) ;;
        *)
            echo "ci/setup.sh: unknown extras '$extras'; say none, dev, docs or dev,docs" >&2
            return 2
            ;;
    esac
    _conform_make_venv "$venv" || return 1
    fingerprint="$root $(cat "$root/pyproject.toml" "$root/ci/constraints.txt" | cksum)"
    for extra in none ${extras//,/ }; do
        [ "$(cat "$venv/.conform-$extra" 2>/dev/null)" = "$fingerprint" ] || missing=yes
    done
    if [ -n "$missing" ]; then
        echo "ci/setup.sh: installing conform and its dependencies into .venv (the first time takes some minutes)" >&2
        local target="."
        [ "$extras" = none ] || target=".[$extras]"
        (cd "$root" && "$venv/bin/python" -m pip install --quiet -c ci/constraints.txt -e "$target") >&2 || {
            echo "ci/setup.sh: the installation failed; pip's message is above" >&2
            return 1
        }
        for extra in none ${extras//,/ }; do
            printf '%s\n' "$fingerprint" >"$venv/.conform-$extra"
        done
    fi
    export PYTHON="$venv/bin/python"
}

_conform_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

_conform_make_venv() {
    local venv="$1" candidate tried=""
    if _conform_new_enough "$venv/bin/python" && "$venv/bin/python" -c 'import pip' >/dev/null 2>&1; then
        return 0
    fi
    for candidate in ${CONFORM_PYTHON:+"$CONFORM_PYTHON"} python3 python3.11 python3.12 python3.13 python3.14 python; do
        command -v "$candidate" >/dev/null 2>&1 || continue
        if ! _conform_new_enough "$candidate"; then
            tried="$tried $candidate (older than 3.11, or does not start);"
        elif "$candidate" -m venv --clear "$venv" >/dev/null 2>&1; then
            return 0
        else
            tried="$tried $candidate (cannot make a virtual environment: on Debian and Ubuntu install python3-venv);"
        fi
    done
    echo "ci/setup.sh: conform needs Python 3.11 or newer with the venv module. Tried:${tried:- nothing, no python3 on the PATH.}" >&2
    echo "ci/setup.sh: name another one by CONFORM_PYTHON=/path/to/python3." >&2
    return 1
}

if [ "${BASH_SOURCE[0]}" != "$0" ]; then
    conform_setup "$@"
else
    conform_setup "$@" && echo "$PYTHON"
fi
