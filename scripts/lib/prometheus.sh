# shellcheck shell=bash
# Debian's Prometheus and AlertManager in the namespace of the node, where control and data plane listen on the loopback.

# prometheus_up RULES INTERVAL
prometheus_up() {
    have prometheus || fail "no Prometheus" "scripts/setup installs it"
    cat >"$RUN/prometheus.yml" <<TXT
global: {scrape_interval: $2, evaluation_interval: $2}
rule_files: ["$1"]
alerting:
  alertmanagers: [{static_configs: [{targets: ["127.0.0.1:9093"]}]}]
scrape_configs:
  - {job_name: marchproxy-dataplane, static_configs: [{targets: ["127.0.0.1:8082"]}]}
  - {job_name: marchproxy-control, static_configs: [{targets: ["127.0.0.1:8000"]}]}
TXT
    cat >"$RUN/alertmanager.yml" <<TXT
route: {receiver: nobody, group_wait: 1s}
receivers: [{name: nobody}]
TXT
    start alertmanager nsenter --net="$(netns proxy)" -- prometheus-alertmanager --config.file="$RUN/alertmanager.yml" \
        --storage.path="$RUN/alertmanager" --web.listen-address=127.0.0.1:9093 --cluster.listen-address=
    start prometheus nsenter --net="$(netns proxy)" -- prometheus --config.file="$RUN/prometheus.yml" \
        --storage.tsdb.path="$RUN/prometheus" --web.listen-address=127.0.0.1:9090 --log.level=warn
    wait_for 30 both_scraped || fail "Prometheus does not reach control and the node" "see $RUN/log/prometheus.log"
}

# ask PATH ARGUMENTS...: Prometheus' answer.
ask() {
    local path="$1"
    shift
    within proxy curl -sf --max-time 5 -G "http://127.0.0.1:9090/api/v1/$path" "$@"
}

both_scraped() { ask query --data-urlencode 'query=up == 1' | jq -e '.data.result | length == 2'; }
