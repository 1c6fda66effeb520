# shellcheck shell=bash
# shellcheck disable=SC2034 # what is set here is used by the scripts that read this
#
# What every script here needs: where the repository is, how to talk, how to wait, where cargo is.

REPO="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
TARGET_DIR="${CARGO_TARGET_DIR:-$REPO/target}"
case "$TARGET_DIR" in /*) ;; *) TARGET_DIR="$REPO/$TARGET_DIR" ;; esac

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
    BOLD=$'\e[1m' GREEN=$'\e[32m' YELLOW=$'\e[33m' RED=$'\e[31m' PLAIN=$'\e[0m'
else
    BOLD='' GREEN='' YELLOW='' RED='' PLAIN=''
fi

say() { printf '%s\n' "$*"; }
headline() { printf '\n%s%s%s\n' "$BOLD" "$*" "$PLAIN"; }
warn() { printf '%s%s%s\n' "$YELLOW" "$*" "$PLAIN" >&2; }

# fail WHAT [NEXT THING TO TRY...]
fail() {
    printf '%s%s: %s%s\n' "$RED" "$(basename "$0")" "$1" "$PLAIN" >&2
    shift
    if [ $# -gt 0 ]; then printf '  %s\n' "$@" >&2; fi
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# wait_for SECONDS COMMAND...: polls ten times a second until the command succeeds; its output is thrown away.
wait_for() {
    local until=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        if [ "$SECONDS" -ge "$until" ]; then return 1; fi
        sleep 0.1
    done
}

# version_at_least HAVE WANTED
version_at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# cargo is often installed for one user only and forgotten by sudo and non-login shells.
find_cargo() {
    have cargo && return
    local home
    for home in "$HOME" "$(getent passwd "${SUDO_USER:-}" 2>/dev/null | cut -d: -f6)"; do
        if [ -n "$home" ] && [ -x "$home/.cargo/bin/cargo" ]; then
            export PATH="$home/.cargo/bin:$PATH"
            # rustup looks for its toolchains below its user's home.
            export RUSTUP_HOME="${RUSTUP_HOME:-$home/.rustup}" CARGO_HOME="${CARGO_HOME:-$home/.cargo}"
            return
        fi
    done
    return 1
}

# RUSTFLAGS in the environment replaces the ones in .cargo/config.toml, so the product's baseline must be said again then.
BASELINE_FLAGS=''
if [ "$(uname -m)" = x86_64 ]; then BASELINE_FLAGS='-C target-cpu=x86-64-v3'; fi
case "${RUSTFLAGS:-}" in
    '' | *target-cpu*) ;;
    *) export RUSTFLAGS="$RUSTFLAGS $BASELINE_FLAGS" ;;
esac
