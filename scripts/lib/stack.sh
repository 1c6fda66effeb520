# shellcheck shell=bash
# The programs of the quickstart: real servers, control, one node, and how to talk to them.

# web_server NAME: nginx in its namespace; says who it is and whom it sees, and has a file that takes its time.
web_server() {
    local dir="$RUN/$1"
    mkdir -p "$dir/tmp"
    cat >"$dir/nginx.conf" <<TXT
daemon off;
user root;
worker_processes 1;
pid $dir/nginx.pid;
error_log $RUN/log/nginx-$1.log;
events { worker_connections 1024; }
http {
    access_log off;
    client_body_temp_path $dir/tmp; proxy_temp_path $dir/tmp; fastcgi_temp_path $dir/tmp; uwsgi_temp_path $dir/tmp; scgi_temp_path $dir/tmp;
    keepalive_timeout 0; # each request is a session of its own
    default_type text/plain;
    server {
        listen 8080 default_server;
        listen [::]:8080 default_server ipv6only=on;
        location / { return 200 "$1 \$remote_addr\n"; }
        location /download/6s { alias $RUN/download; limit_rate 2m; }
        location /download/12s { alias $RUN/download; limit_rate 1m; }
    }
}
TXT
    start "nginx-$1" nsenter --net="$(netns "$1")" -- nginx -p "$dir" -c "$dir/nginx.conf" -e "$RUN/log/nginx-$1.log"
    wait_for 10 within "$1" curl -sf --max-time 1 http://127.0.0.1:8080/ || fail "nginx does not start in $1" "see $RUN/log/nginx-$1.log"
}

servers_up() {
    head -c $((12 * 1024 * 1024)) /dev/urandom >"$RUN/download"
    web_server s1
    web_server s2
    start iperf3 nsenter --net="$(netns s1)" -- iperf3 -s
}

# marchctl ARGUMENTS...: as the first operator, over mTLS.
marchctl() {
    within proxy timeout --foreground 30 "$BIN/marchctl" --control https://127.0.0.1:18000 --ca "$RUN/control/ca.pem" \
        --cert "$RUN/control/operator-admin.pem" --key "$RUN/control/operator-admin.key" "$@"
}

control_up() {
    mkdir -m 700 "$RUN/control"
    cat >"$RUN/control.toml" <<TXT
listen = "127.0.0.1:18000"
state_dir = "$RUN/control"
http = "127.0.0.1:8000"
certificate_days = ${CERTIFICATE_DAYS:-825}
TXT
    start control nsenter --net="$(netns proxy)" -- "$BIN/marchproxy-control" --config "$RUN/control.toml"
    wait_for 15 marchctl node list || fail "control does not answer" "see $RUN/log/control.log"
}

# The node gets a one-time token, makes its own key, and trades the token for a certificate.
node_up() {
    mkdir -m 700 "$RUN/node"
    marchctl node token edge-1 --out "$RUN/enrolment.json" >"$RUN/log/token.log" 2>&1 || fail "control gives no token for the node"
    cat >"$RUN/dataplane.toml" <<TXT
node = "edge-1"
metrics = "127.0.0.1:8082"
socket = "$RUN/dataplane.sock"
state_dir = "$RUN/node"
sessions = ${SESSIONS:-65536}
workers = [$(last_core)]
backend = "${BACKEND:-dpdk}"
[control]
address = "127.0.0.1:18000"
enrolment = "$RUN/enrolment.json"
[memory]
hugepages = "$HUGEPAGES"
mem_mb = 128
file_prefix = "$PREFIX"
TXT
    dataplane
    wait_for 30 node_connected || fail "the node does not reach control" "see $RUN/log/dataplane.log"
}

dataplane() { start dataplane nsenter --net="$(netns proxy)" -- "$BIN/marchproxy-dataplane" --config "$RUN/dataplane.toml"; }

# The highest core we may use; the others are for clients, servers and the kernel. One worker is enough for this traffic.
last_core() { sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' /proc/self/status | grep -oE '[0-9]+$'; }

node_connected() { marchctl node list --json | jq -e '.nodes[] | select(.name == "edge-1") | .connected'; }

ports_up() { marchctl stats --json | jq -e '(.ports | length) == 2 and all(.ports[]; .link_up)'; }

# stat FILTER: a number out of the node's counters.
stat() { marchctl stats --json | jq -r "$1"; }

# dropped REASON: packets dropped under it so far.
dropped() { stat "[.drops[] | select(.reason == \"$1\") | .packets] | add // 0"; }

# apply FILE MESSAGE: into $APPLIED the answer in JSON. Fails unless the node settled.
apply() {
    APPLIED="$(marchctl apply -f "$1" -m "$2" --json)" || return 1
    settled
}

settled() { jq -e '(.nodes | length) == 1 and all(.nodes[]; .outcome == "NODE_OUTCOME_SETTLED")' <<<"$APPLIED" >/dev/null; }

# helpers: one word each for the person who looks round afterwards.
helpers() {
    local name
    for name in client proxy s1 s2; do
        printf '#!/bin/sh\nexec nsenter --net=%s -- "$@"\n' "$(netns "$name")" >"$RUN/$name-ns"
    done
    cat >"$RUN/marchctl" <<TXT
#!/bin/sh
export MARCHCTL_CONTROL=https://127.0.0.1:18000 MARCHCTL_CA=$RUN/control/ca.pem
export MARCHCTL_CERT=$RUN/control/operator-admin.pem MARCHCTL_KEY=$RUN/control/operator-admin.key
exec nsenter --net=$(netns proxy) -- $BIN/marchctl "\$@"
TXT
    chmod +x "$RUN"/*-ns "$RUN/marchctl"
}
