#!/usr/bin/env bash
# requests.sh FILE URL...: one request after the other, each a connection of its own, until it is ended. One line per request goes to
# FILE.ok or FILE.failed.
set -u
trap exit TERM
out="$1"
shift
touch "$out.failed"
while :; do
    for url in "$@"; do
        if answer="$(curl -sS -g --max-time 5 "$url" 2>&1)" && [[ "$answer" == s[12]\ * ]]; then
            echo "$answer" >>"$out.ok"
        else
            echo "$url: $answer" >>"$out.failed"
        fi
    done
done
