# shellcheck shell=bash
# What really was on a wire, by tcpdump.

# capture NAME NAMESPACE INTERFACE FILTER...: records headers until capture_end.
capture() {
    local name="$1" where="$2" device="$3"
    shift 3
    start "capture-$name" nsenter --net="$(netns "$where")" -- \
        tcpdump -Z root -i "$device" -n -s 96 -B 8192 --immediate-mode -U -w "$RUN/$name.pcap" "$*"
    wait_for 5 grep -q 'listening on' "$RUN/log/capture-$name.log" || warn "tcpdump does not start: $(cat "$RUN/log/capture-$name.log")"
}

# capture_end NAME: what is still in the kernel's buffer is waited for.
capture_end() {
    sleep 0.3
    stop "capture-$1" INT || true
    if ! grep -q '^0 packets dropped by kernel' "$RUN/log/capture-$1.log"; then
        warn "tcpdump itself lost packets: $(grep 'dropped by kernel' "$RUN/log/capture-$1.log")"
    fi
}

# captured NAME FILTER...: how many packets.
captured() {
    local name="$1"
    shift
    tcpdump -r "$RUN/$name.pcap" -n "$*" 2>/dev/null | wc -l
}

# DSCP as a filter, and for both families: dscp_is 34
dscp_is() { say "((ip and ip[1] & 0xfc == $(($1 << 2))) or (ip6 and ip6[0:2] & 0x0fc0 == $(($1 << 6))))"; }

# l3_rate NAME SKIP_SECONDS: bit/s of L3 octets between SKIP_SECONDS after the first packet and the last one; IPv4.
l3_rate() {
    tcpdump -r "$RUN/$1.pcap" -n -tt -v 'ip' 2>/dev/null | awk -v skip="$2" '
        match($0, /length [0-9]+\)$/) {
            at = $1; octets = substr($0, RSTART + 7, RLENGTH - 8)
            if (first == "") first = at
            if (at - first < skip) next
            if (from == "") { from = at; next }
            sum += octets; last = at
        }
        END { if (last > from) printf "%.0f\n", sum * 8 / (last - from); else print 0 }'
}
