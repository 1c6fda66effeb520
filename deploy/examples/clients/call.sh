#!/usr/bin/env bash
# Asks MarchProxy from a shell, from the proto files alone: one unary call of ConfigService, its request and answer in protobuf's text format.
# gRPC is HTTP/2 with five octets before each message; curl and protoc are all it takes.
#
# Debian 12: apt-get install curl protobuf-compiler libprotobuf-dev
#
#   call.sh --proto /path/to/marchproxy/proto --control https://HOST:18000 --ca ca.pem --cert operator.pem --key operator.key \
#       History 'limit: 3'
#   call.sh ... Rollback 'to_version: 41 message: "from a shell"'
#
# Exit code: 0, or 1 with the status and its message on standard error.
set -euo pipefail

usage() { sed -n '2,12s/^# \{0,1\}//p' "$0"; }

PROTO='' CONTROL=https://localhost:18000 TLS=()
while [ $# -gt 0 ]; do
    case "$1" in
        --proto) PROTO=$2; shift 2 ;;
        --control) CONTROL=$2; shift 2 ;;
        --ca) TLS+=(--cacert "$2"); shift 2 ;;
        --cert | --key) TLS+=("$1" "$2"); shift 2 ;;
        -h | --help) usage; exit 0 ;;
        -*) usage >&2; exit 1 ;;
        *) break ;;
    esac
done
if [ -z "$PROTO" ] || [ $# -lt 1 ]; then usage >&2; exit 1; fi
METHOD=$1 REQUEST=${2:-}
# Apply and Rollback answer alike; Apply takes a stream of chunks, of which one is enough for a small document.
case "$METHOD" in
    Apply) IN=ApplyChunk OUT=ApplyResponse ;;
    Rollback) IN=RollbackRequest OUT=ApplyResponse ;;
    *) IN=${METHOD}Request OUT=${METHOD}Response ;;
esac
DIR=$(mktemp -d)
trap 'rm -rf "$DIR"' EXIT
CONTRACT=(--proto_path="$PROTO" marchproxy/v1/config.proto)
protoc --encode="marchproxy.v1.$IN" "${CONTRACT[@]}" <<<"$REQUEST" >"$DIR/message"

# The frame: not compressed, and the length in four octets, the highest first.
SIZE=$(stat -c %s "$DIR/message")
{
    # shellcheck disable=SC2059 # the format is the octets
    printf "$(printf '\\x00\\x%02x\\x%02x\\x%02x\\x%02x' $((SIZE >> 24 & 255)) $((SIZE >> 16 & 255)) $((SIZE >> 8 & 255)) $((SIZE & 255)))"
    cat "$DIR/message"
} >"$DIR/request"

case "$CONTROL" in http://*) TLS=(--http2-prior-knowledge) ;; *) TLS+=(--http2) ;; esac
curl -sS "${TLS[@]}" -X POST -H 'content-type: application/grpc' -H 'te: trailers' --data-binary "@$DIR/request" \
    -D "$DIR/headers" -o "$DIR/answer" "$CONTROL/marchproxy.v1.ConfigService/$METHOD"

# The status stands in the trailers, or in the headers where there is no answer. Its text is percent-encoded.
header() { tr -d '\r' <"$DIR/headers" | sed -n "s/^$1: //Ip" | tail -1; }
STATUS=$(header grpc-status)
if [ "$STATUS" != 0 ]; then
    MESSAGE=$(header grpc-message)
    printf 'status %s: %b\n' "${STATUS:-unknown}" "${MESSAGE//%/\\x}" >&2
    exit 1
fi
tail -c +6 "$DIR/answer" | protoc --decode="marchproxy.v1.$OUT" "${CONTRACT[@]}"
