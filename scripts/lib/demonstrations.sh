# shellcheck shell=bash
# shellcheck disable=SC2034 # figures are printed by scripts/quickstart
# The ten demonstrations. Each is a function that uses ordinary clients, puts what it measured into FACTS and what should have
# been otherwise into PROBLEMS. They run in order and share the node; the document that is in force between them is quickstart.yaml.

HELD=0
FACTS='' PROBLEMS=()
# What is said again at the end, where a log that was cut still has it.
NOT_HELD=()
DEMONSTRATIONS=(spread4 spread6 icmp denied policed marked changed rolled_back accounted lost)

# expect PROBLEM COMMAND...: notes the problem when the command fails.
expect() {
    local problem="$1"
    shift
    "$@" >/dev/null 2>&1 || PROBLEMS+=("$problem")
}

# demonstrate NUMBER FUNCTION
demonstrate() {
    FACTS='' PROBLEMS=()
    # As a condition, so that a client's failure inside is noted and does not end the run.
    "demo_$2" || PROBLEMS+=("it broke off")
    if [ ${#PROBLEMS[@]} -eq 0 ]; then
        HELD=$((HELD + 1))
        say "${GREEN}demonstration $1: held${PLAIN} — $FACTS"
    else
        NOT_HELD+=("demonstration $1: NOT held — $(printf '%s; ' "${PROBLEMS[@]}")measured: ${FACTS:-nothing}")
        say "${RED}${NOT_HELD[-1]}${PLAIN}"
    fi
}

demonstrate_all() {
    local i
    for i in "${!DEMONSTRATIONS[@]}"; do
        demonstrate $((i + 1)) "${DEMONSTRATIONS[i]}"
    done
}

is() { [ "$1" = "$2" ]; }
at_least() { [ "$1" -ge "$2" ]; }

# --- 1 and 2: requests over both backends

REQUESTS=100

# spread WORD URL CLIENT
spread() {
    local answers s1 s2
    answers="$(within client timeout --foreground 60 curl -s --max-time 5 "$2?[1-$REQUESTS]" || true)"
    s1="$(grep -cxF "s1 $3" <<<"$answers" || true)"
    s2="$(grep -cxF "s2 $3" <<<"$answers" || true)"
    FACTS="$1: $((s1 + s2)) of $REQUESTS requests to $2 answered, s1 $s1, s2 $s2; both see the client's own address $3"
    expect "expected $REQUESTS answers that name a server and $3" is $((s1 + s2)) $REQUESTS
    # By chance alone fewer than 25 of 100 on one side happens once in a million runs.
    expect "expected at least $((REQUESTS / 4)) from s1, found $s1" at_least "$s1" $((REQUESTS / 4))
    expect "expected at least $((REQUESTS / 4)) from s2, found $s2" at_least "$s2" $((REQUESTS / 4))
}

demo_spread4() { spread IPv4 "http://$VIP4/" "$CLIENT4"; }

demo_spread6() { spread IPv6 "http://[$VIP6]/" "$CLIENT6"; }

# --- 3: ICMP

demo_icmp() {
    local target words
    for target in "$VIP4" "$PROXY4" "$VIP6" "$PROXY6" "$S1_4" "$S2_6"; do
        expect "expected 3 answers to ping $target" within client ping -n -q -c 3 -i 0.2 -w 5 "$target"
    done
    FACTS="ping: VIP and own address answer over IPv4 and IPv6, servers behind too"
    words="$(within client ping -n -c 1 -t 1 -w 2 "$S1_4" || true)"
    expect "expected time exceeded from $PROXY4 for TTL 1, found: $(tail -n +2 <<<"$words" | tr '\n' ' ')" \
        grep -q "From $PROXY4 .*Time to live exceeded" <<<"$words"
    words="$(within client ping -n -c 1 -t 1 -w 2 "$S1_6" || true)"
    expect "expected time exceeded from $PROXY6 for hop limit 1, found: $(tail -n +2 <<<"$words" | tr '\n' ' ')" \
        grep -q "From $PROXY6 .*Time exceeded" <<<"$words"
    FACTS+="; TTL 1: time exceeded from $PROXY4, hop limit 1: from $PROXY6"
}

# --- 4: denied and counted

demo_denied() {
    local before sent after url i
    before="$(dropped rule_deny)"
    capture denied client eth0 'tcp dst port 23'
    for i in 1 2 3 4 5 6 7 8 9 10; do
        # One SYN each: the first repetition would come after a second.
        for url in "telnet://$VIP4:23" "telnet://[$VIP6]:23"; do
            if within client curl -s -g --connect-timeout 0.2 "$url" </dev/null; then PROBLEMS+=("attempt $i at $url got through"); fi
        done
    done
    capture_end denied
    sent="$(captured denied tcp)"
    wait_for 3 denied_reaches $((before + sent)) || true
    after="$(dropped rule_deny)"
    FACTS="20 attempts at port 23 over IPv4 and IPv6: tcpdump saw $sent packets leave the client, rule_deny rose by $((after - before))"
    FACTS+=", rule no-telnet by $(stat '[.objects[] | select(.kind == "rule" and .name == "no-telnet") | .dropped] | add // 0')"
    expect "expected at least 20 packets sent" at_least "$sent" 20
    expect "expected rule_deny to rise by the packets sent" is $((after - before)) "$sent"
}

denied_reaches() { [ "$(dropped rule_deny)" -ge "$1" ]; }

# --- 5: policed

OFFERED=80 # Mbit/s
CIR=20     # Mbit/s, as in quickstart.yaml

# One stream. SENT by iperf3, ARRIVED at the server, POLICED away, and LOST: what neither the server nor the policer saw.
stream() {
    local before
    before="$(dropped policer_drop)"
    capture policed s1 eth0 'udp dst port 5201'
    within client timeout --foreground 30 iperf3 -c "$VIP4" -u -b ${OFFERED}M -l 1000 -t 6 --json >"$RUN/iperf3.json" 2>&1 || true
    capture_end policed
    SENT="$(jq -r '.end.sum.packets // 0' "$RUN/iperf3.json" || say 0)"
    ARRIVED="$(captured policed udp)"
    POLICED=$(($(dropped policer_drop) - before))
    LOST=$((SENT - ARRIVED - POLICED))
}

# near_cir RATE
near_cir() { awk -v r="$1" -v c="$CIR" 'BEGIN { exit !(r > c * 0.97e6 && r < c * 1.03e6) }'; }

demo_policed() {
    local attempt rate
    # A machine busy with other things may keep MarchProxy or iperf3 from the cores for so long that the stream has holes, and more
    # tokens come together than the policer holds. Such a stream says nothing about a policer, and is sent again.
    for attempt in 1 2 3; do
        stream
        # The first second holds the burst the policer allows on top.
        rate="$(l3_rate policed 1)"
        if [ "$SENT" -gt 0 ] && [ "$LOST" -lt $((SENT / 100)) ] && near_cir "$rate"; then break; fi
    done
    FACTS="iperf3 offers $OFFERED Mbit/s of UDP for 6 s, the policer of service stream allows $CIR: at the server"
    FACTS+=" $(awk -v r="$rate" 'BEGIN { printf "%.2f", r / 1e6 }') Mbit/s of L3 octets"
    FACTS+=" ($(awk -v r="$rate" -v c="$CIR" 'BEGIN { printf "%+.2f", r / 1e4 / c - 100 }') %)"
    FACTS+="; $SENT sent, $ARRIVED arrived, policer_drop $POLICED"
    if [ "$attempt" -gt 1 ]; then FACTS+=" (attempt $attempt: before, the busy machine lost packets outside of MarchProxy)"; fi
    expect "expected $CIR Mbit/s +-3 %" near_cir "$rate"
    expect "expected most of $SENT packets dropped by the policer" at_least "$POLICED" $((SENT / 2))
}

# --- 6: marked

demo_marked() {
    local all marked policed
    # Health checks come from our own addresses, and no rule marks them.
    capture marked1 s1 eth0 "tcp dst port 8080 and not host $LAN4 and not host $LAN6"
    capture marked2 s2 eth0 "tcp dst port 8080 and not host $LAN4 and not host $LAN6"
    within client timeout --foreground 30 curl -s --max-time 5 "http://$VIP4/?[1-20]" "http://[$VIP6]/?[1-20]" >/dev/null || true
    capture_end marked1
    capture_end marked2
    all=$(($(captured marked1 tcp) + $(captured marked2 tcp)))
    marked=$(($(captured marked1 "$(dscp_is 34)") + $(captured marked2 "$(dscp_is 34)")))
    policed="$(captured policed "$(dscp_is 26)") AF31 (green) and $(captured policed "$(dscp_is 28)") AF32 (yellow)"
    FACTS="web, IPv4 and IPv6: $marked of $all packets reach the servers as AF41 (34); the policed stream came as $policed"
    expect "expected at least 160 packets of 40 requests" at_least "$all" 160
    expect "expected all packets marked" is "$all" "$marked"
    expect "expected the stream as AF31" at_least "$(captured policed "$(dscp_is 26)")" 1000
}

# --- 7 and 8: changes under load

# A download and requests while the document changes: load_begin SECONDS; changes; load_end. The download takes 6 s or 12 s. DURING
# counts the changes that were in force before it ended.
load_begin() {
    DURING=0
    rm -f "$RUN"/requests.*
    start download nsenter --net="$(netns client)" -- curl -sS --max-time 60 -o "$RUN/download.got" "http://$VIP4/download/$1s"
    start requests nsenter --net="$(netns client)" -- bash "$REPO/scripts/lib/requests.sh" "$RUN/requests" "http://$VIP4/" "http://[$VIP6]/"
    wait_for 5 test -s "$RUN/requests.ok" || PROBLEMS+=("no request succeeded before the change")
    capture download client eth0 "tcp src port 80 and host $VIP4 and greater 1000"
    sleep 0.5
}

load_end() {
    local requests failed status=0
    # What is decided anew shows on the running download too; give it a moment to show.
    sleep 0.7
    capture_end download
    wait_for 40 load_over || true
    stop download || status=$?
    stop requests || true
    requests="$(wc -l <"$RUN/requests.ok" 2>/dev/null || say 0)"
    failed="$(wc -l <"$RUN/requests.failed" 2>/dev/null || say 0)"
    expect "expected the download to succeed, curl ended with $status: $(cat "$RUN/log/download.log")" is "$status" 0
    expect "expected the file as it is on the server" cmp -s "$RUN/download" "$RUN/download.got"
    expect "expected no failed request, found $failed: $(sort "$RUN/requests.failed" 2>/dev/null | uniq -c | head -n 3)" is "$failed" 0
    expect "expected at least 50 requests, found $requests" at_least "$requests" 50
    FACTS+="; 12 MiB download complete and unchanged, $requests requests meanwhile, $failed failed"
}

load_over() { ! running download; }

count_change() { if running download; then DURING=$((DURING + 1)); fi; }

# The change: the web's mark, and one more rule.
changed_document() {
    sed -e 's/mark: AF41/mark: AF21/' \
        -e '/name: no-telnet/a\  - {name: no-discard, priority: 110, match: {protocol: tcp, dst_ports: [9]}, action: deny}' \
        "$DOCUMENT" >"$RUN/changed.yaml"
}

median() { sort -n | awk '{ all[NR] = $1 } END { print all[int((NR + 1) / 2)] }'; }

demo_changed() {
    local i file settle='' store=''
    changed_document
    load_begin 12
    for i in 1 2 3 4 5 6 7 8 9 10 11; do
        if [ $((i % 2)) = 1 ]; then file="$RUN/changed.yaml"; else file="$DOCUMENT"; fi
        apply "$file" "quickstart, change $i" || PROBLEMS+=("change $i was not settled: $APPLIED")
        count_change
        settle+="$(jq .settle_us <<<"$APPLIED")"$'\n'
        store+="$(jq .store_us <<<"$APPLIED")"$'\n'
    done
    SETTLE_US="$(median <<<"${settle%$'\n'}")"
    STORE_US="$(median <<<"${store%$'\n'}")"
    SETTLE_MAX_US="$(sort -n <<<"${settle%$'\n'}" | tail -n 1)"
    FACTS="11 changes of rules and marks, $DURING of them during one download"
    expect "expected at least 3 changes during the download" at_least "$DURING" 3
    load_end
    FACTS+="; the download's own packets turned from AF41 ($(captured download "$(dscp_is 34)") packets) to AF21 ($(captured download "$(dscp_is 18)"))"
    expect "expected packets of the download as AF21" at_least "$(captured download "$(dscp_is 18)")" 10
    expect "expected rule no-discard in the tables" why_rule no-discard --protocol tcp --dport 9
}

demo_rolled_back() {
    local before after
    before="$(marchctl get --version "$FIRST" -o json)"
    load_begin 6
    APPLIED="$(marchctl rollback "$FIRST" -m 'quickstart, back to the first version' --json)" || PROBLEMS+=("the rollback was refused")
    expect "expected the rollback to settle: $APPLIED" settled
    count_change
    expect "expected the rollback to be in force before the download ended" is "$DURING" 1
    FACTS="version $(jq .version <<<"$APPLIED") has the content of version $FIRST, settled in $(milliseconds "$(jq .settle_us <<<"$APPLIED")")"
    load_end
    after="$(marchctl get -o json)"
    expect "expected the document of version $FIRST" is "$before" "$after"
    expect "expected content hash $FIRST_HASH" is "$(jq -r .content_hash <<<"$APPLIED")" "$FIRST_HASH"
    expect "expected packets of the download as AF21 before, found none" at_least "$(captured download "$(dscp_is 18)")" 10
    expect "expected packets of the download as AF41 after, found none" at_least "$(captured download "$(dscp_is 34)")" 10
    expect "expected rule no-discard to be gone" why_rule rest --protocol tcp --dport 9
}

milliseconds() { awk -v us="$1" 'BEGIN { printf "%.1f ms", us / 1000 }'; }

# --- 9: accounted for

# why ARGUMENTS...: about a packet of the client's to the VIP, from a port below those that clients take by themselves: with one of theirs it
# might belong to a session of the demonstrations before, and then the session decides, no rule.
why() { marchctl why --json --in wan0 --src "$CLIENT4" --dst "$VIP4" --sport 20000 "$@"; }

# why_rule RULE ARGUMENTS...: whether that rule decides.
why_rule() {
    local rule="$1"
    shift
    why "$@" | jq -e --arg rule "rule $rule" 'any(.steps[]; .object == $rule)'
}

demo_accounted() {
    local stats web telnet
    stats="$(marchctl stats --json)"
    FACTS="$(jq -r '.conservation | "rx \(.rx) + originated \(.originated) = tx \(.tx) + drops \(.drops) + consumed \(.consumed) + held \(.held), residue \(.residue)"' <<<"$stats")"
    expect "expected residue 0" jq -e '.conservation.residue == 0 and .conservation.rx > 10000' <<<"$stats"
    web="$(why --protocol tcp --dport 80)"
    telnet="$(why --protocol tcp --dport 23)"
    FACTS+="; why port 80: $(jq -r '.verdict + " by " + ([.steps[].object | select(test("^(rule|service|backend) "))] | join(", "))' <<<"$web")"
    FACTS+="; why port 23: $(jq -r '.verdict + ", " + .reason + " by " + ([.steps[].object | select(startswith("rule "))] | join(", "))' <<<"$telnet")"
    expect "expected port 80 forwarded by rule web and service web" \
        jq -e '.verdict == "forwarded" and ([.steps[].object] | contains(["rule web", "service web"]))' <<<"$web"
    expect "expected port 23 dropped as rule_deny by rule no-telnet" \
        jq -e '.verdict == "dropped" and .reason == "rule_deny" and ([.steps[].object] | contains(["rule no-telnet"]))' <<<"$telnet"
}

# --- 10: a lost server

# As in quickstart.yaml: fall * interval and 100 ms. It is measured and shown; a machine that is busy with other things may add to it
# (the engine's tests hold the exact bound, on a clock of their own).
LOST_MS=1600
# How long nothing may fail until the lost server counts as noticed, and when that must be over on the slowest machine.
QUIET_MS=3000
LATEST_MS=20000

now_ms() { date +%s%3N; }

# backend_is NAME STATE
backend_is() { marchctl backend show "web/$1" --json | jq -e --arg state "$2" '.health.state == $state'; }

demo_lost() {
    local ended since asked=0 failed=0 last=0 url answers
    stop nginx-s2 || true
    ended="$(now_ms)" since=0
    while [ "$since" -lt $((last + QUIET_MS)) ] && [ "$since" -lt "$LATEST_MS" ]; do
        for url in "http://$VIP4/" "http://[$VIP6]/"; do
            since=$(($(now_ms) - ended))
            asked=$((asked + 1))
            if ! within client curl -s -g -o /dev/null --max-time 1 "$url"; then failed=$((failed + 1)) last=$since; fi
        done
    done
    FACTS="server s2 is ended: of $asked requests afterwards $failed fail, the last one begun $last ms after it"
    FACTS+=" (fall * interval + 100 ms: $LOST_MS ms)"
    expect "expected a request to fail before anybody can know" at_least "$failed" 1
    expect "expected $QUIET_MS ms without a failure within $LATEST_MS ms" at_least $((LATEST_MS - 1)) "$since"
    expect "expected s2-v4 down: $(marchctl backend show web/s2-v4 --json | jq -c .health)" backend_is s2-v4 down
    expect "expected s2-v6 down" backend_is s2-v6 down
    FACTS+="; marchctl backend show: $(marchctl backend show web/s2-v4 --json | jq -r '.health | .state + ", " + .last_result')"
    web_server s2
    expect "expected s2-v4 up again" wait_for 10 backend_is s2-v4 up
    expect "expected s2-v6 up again" wait_for 10 backend_is s2-v6 up
    answers="$(within client timeout --foreground 60 curl -s --max-time 5 "http://$VIP4/?[1-$REQUESTS]" || true)"
    FACTS+="; back again it answers $(grep -c '^s2 ' <<<"$answers" || true) of $REQUESTS"
    expect "expected answers from s2" grep -q '^s2 ' <<<"$answers"
    expect "expected residue 0" is "$(stat .conservation.residue)" 0
}
