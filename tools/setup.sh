#!/usr/bin/env bash
# Make this tree ready to use: system packages, .venv, the package with its test tools, links for the type checker.
#
# Fast when nothing is to do. As root on Debian or Ubuntu it installs missing system packages with apt; as an ordinary
# user it names what is missing and stops. Everything else goes into .venv. Other systems: install the named pieces by hand.
set -euo pipefail
cd "$(dirname "$0")/.."

STAMP=.venv/.siltstone-ready

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

fingerprint() { cat setup.cfg pyproject.toml tools/setup.sh | sha256sum | cut -d' ' -f1; pwd; }

if [ -x .venv/bin/python ] && [ "$(cat "$STAMP" 2>/dev/null)" = "$(fingerprint)" ]; then
    .venv/bin/python tools/typings.py
    exit 0
fi

# --- a Python that is new enough -----------------------------------------------------------------------------------

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    for name in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11; do
        if command -v "$name" >/dev/null && is_new_enough "$name"; then
            "$name" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    return 1
}

# --- what must be on the system, and the Debian package that brings it ------------------------------------------------

python=$(find_python) || python=

missing_packages() {
    command -v gcc >/dev/null || echo gcc
    command -v pkg-config >/dev/null || echo pkg-config
    { command -v pkg-config >/dev/null && pkg-config --exists fuse3; } || echo libfuse3-dev
    command -v fusermount3 >/dev/null || echo fuse3
    echo '#include <errno.h>' | gcc -E -x c - >/dev/null 2>&1 || echo libc6-dev
    if [ -z "$python" ]; then
        echo python3 python3-dev python3-venv
        return
    fi
    local version
    version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
    "$python" -c 'import ensurepip, venv' 2>/dev/null || echo "$version-venv"
    [ -e "$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')/Python.h" ] || echo "$version-dev"
}

has_isal() { { command -v "${python:-python3}" >/dev/null && "${python:-python3}" -c 'import ctypes; ctypes.CDLL("libisal.so.2")'; } 2>/dev/null; }

loss_of() {  # what is lost without an optional package
    case $1 in
        libisal2) echo "erasure coding will use zfec, which is 20 times slower" ;;
        git | rsync) echo "a test that runs $1 in the mount will be skipped" ;;
    esac
}

missing=$(missing_packages | xargs)
optional=()
has_isal || optional+=(libisal2)
command -v git >/dev/null || optional+=(git)
command -v rsync >/dev/null || optional+=(rsync)

if [ -n "$missing" ] || [ "${#optional[@]}" -gt 0 ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "installing system packages:${missing:+ $missing} ${optional[*]}"
        export DEBIAN_FRONTEND=noninteractive
        log=$(mktemp)
        apt_get() { apt-get "$@" >>"$log" 2>&1; }
        apt_get update || say "apt-get update failed; going on with the package lists that are here"
        # shellcheck disable=SC2086  # one word per package is meant
        [ -z "$missing" ] || apt_get install -y --no-install-recommends $missing ca-certificates \
            || { tail -n 20 "$log" >&2; die "apt-get could not install: $missing"; }
        for package in "${optional[@]}"; do
            apt_get install -y --no-install-recommends "$package" || say "going on without $package: $(loss_of "$package")"
        done
        rm -f "$log"
    elif [ -n "$missing" ]; then
        die "missing system packages: $missing. Install them as root (apt-get install $missing), then run this again"
    else
        for package in "${optional[@]}"; do say "$package is not installed: $(loss_of "$package")"; done
    fi
    [ -n "$python" ] || python=$(find_python) || die "no Python >= 3.11 found (looked for python3 and python3.11 to python3.14); set PYTHON=/path/to/python"
    missing=$(missing_packages | xargs)
    [ -z "$missing" ] || die "still missing after the installation: $missing"
fi

# --- the virtual environment ---------------------------------------------------------------------------------------------

if ! { [ -x .venv/bin/python ] && is_new_enough .venv/bin/python && .venv/bin/python -m pip --version >/dev/null 2>&1; }; then
    say "making .venv with $("$python" --version)"
    rm -rf .venv
    "$python" -m venv .venv
fi
say "installing siltstone and its dependencies into .venv (some are built from source, about a minute)"
pip() {  # quiet unless it fails: its warnings are for packagers
    .venv/bin/python -m pip --disable-pip-version-check "$@" >.venv/pip.log 2>&1 \
        || { tail -n 30 .venv/pip.log >&2; die "pip could not install (all of it: .venv/pip.log)"; }
}
pip install --upgrade pip
pip install --editable '.[test]'
.venv/bin/python tools/typings.py
fingerprint >"$STAMP"
say "ready: .venv/bin/siltstone"
