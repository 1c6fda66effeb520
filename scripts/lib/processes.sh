# shellcheck shell=bash
# Processes this run started, by pid, and the end of each of them. Uses $RUN, the run's own directory.

NAMES=()
PIDS=()

# start NAME COMMAND...: in the background, output to $RUN/log/NAME.log. A session of its own keeps the terminal's Ctrl-C from it: we
# end it ourselves, in order. It gets SIGTERM when this shell dies, even by SIGKILL.
start() {
    local name="$1"
    shift
    setsid setpriv --pdeathsig TERM -- "$@" >"$RUN/log/$name.log" 2>&1 </dev/null &
    NAMES+=("$name")
    PIDS+=("$!")
}

# pid_of NAME
pid_of() {
    local i
    for i in "${!NAMES[@]}"; do
        if [ "${NAMES[i]}" = "$1" ]; then
            say "${PIDS[i]}"
            return
        fi
    done
    return 1
}

running() { ! gone "$(pid_of "$1")"; }

# stop NAME [SIGNAL [SECONDS]]: and wait, at most so long, then SIGKILL.
stop() {
    local i pid
    for i in "${!NAMES[@]}"; do
        if [ "${NAMES[i]}" != "$1" ]; then continue; fi
        pid="${PIDS[i]}"
        unset "NAMES[i]" "PIDS[i]"
        kill -"${2:-TERM}" "$pid" 2>/dev/null || true
        if ! wait_for "${3:-5}" gone "$pid"; then
            warn "$1 did not end within ${3:-5} s, killing it"
            kill -KILL "$pid" 2>/dev/null || true
        fi
        wait "$pid" 2>/dev/null || return $?
        return 0
    done
}

# gone PID: ended, or a zombie that only waits for us.
gone() {
    local state
    state="$(sed 's/.*) //; s/ .*//' "/proc/$1/stat" 2>/dev/null)" || return 0
    [ -z "$state" ] || [ "$state" = Z ]
}

stop_all() {
    local i names=("${NAMES[@]}")
    for ((i = ${#names[@]} - 1; i >= 0; i--)); do stop "${names[i]}" || true; done
}
