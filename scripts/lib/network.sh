# shellcheck shell=bash
# The quickstart's network: namespaces of its own, joined by veth pairs. The host's own interfaces are never touched.
#
#   client eth0 --- wan proxy lan --- node switch s1 --- eth0 s1
#                                            s2 --- eth0 s2
#
# Uses $PREFIX, which makes the namespaces' names unique.

# shellcheck disable=SC2034 # read by the scripts that read this
CLIENT4=198.51.100.7 CLIENT6=2001:db8:100::7 # the client, behind the router ...
ROUTER4=192.0.2.254 ROUTER6=2001:db8::fe     # ... that is MarchProxy's next hop towards it
PROXY4=192.0.2.1 PROXY6=2001:db8::1          # from here on, addresses of deploy/examples/quickstart.yaml
LAN4=10.0.20.1 LAN6=fd00:20::1
VIP4=203.0.113.10 VIP6=2001:db8:113::10
S1_4=10.0.20.11 S1_6=fd00:20::11
S2_4=10.0.20.12 S2_6=fd00:20::12

NAMESPACES=(client proxy switch s1 s2)

# `ip netns exec` would mount /sys anew; nsenter changes nothing but the network.
netns() { say "/run/netns/$PREFIX-$1"; }

# within NAMESPACE COMMAND...
within() {
    local where
    where="$(netns "$1")"
    shift
    nsenter --net="$where" -- "$@"
}

# veth NAMESPACE INTERFACE NAMESPACE INTERFACE
veth() {
    ip link add "$2" netns "$PREFIX-$1" type veth peer name "$4" netns "$PREFIX-$3"
    like_a_wire "$1" "$2"
    like_a_wire "$3" "$4"
}

# like_a_wire NAMESPACE INTERFACE: a veth hands over packets without checksums, in bundles beyond the MTU and with the VLAN tag
# beside the frame. A wire does nothing of this, so all of it is switched off.
like_a_wire() {
    within "$1" ethtool -K "$2" tx off rx off sg off tso off gso off gro off txvlan off rxvlan off >/dev/null
    within "$1" ip link set "$2" up
}

# The kernel in these namespaces only moves frames; addresses are the engine's alone, so it must neither have nor make any.
mute_kernel() {
    within "$1" sysctl -q -w net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1 \
        net.ipv4.ip_forward=0 net.ipv4.conf.all.arp_ignore=8 net.ipv4.conf.default.arp_ignore=8
}

# host NAMESPACE INTERFACE ADDRESS...
host() {
    local where="$1" device="$2" address
    shift 2
    for address in "$@"; do
        case "$address" in
            *:*) within "$where" ip address add "$address" dev "$device" nodad ;;
            *) within "$where" ip address add "$address" dev "$device" ;;
        esac
    done
}

network_up() {
    local name
    for name in "${NAMESPACES[@]}"; do
        ip netns add "$PREFIX-$name" || fail "no network namespace can be made" \
            "run as root, outside of containers that forbid it (CAP_SYS_ADMIN)"
        # Router advertisements and solicitations are noise here; addresses are given by hand.
        within "$name" sysctl -q -w net.ipv6.conf.all.accept_ra=0 net.ipv6.conf.default.accept_ra=0 \
            net.ipv6.conf.default.router_solicitations=0
    done
    mute_kernel proxy
    mute_kernel switch
    within proxy ip link set lo up # control and data plane talk over it
    for name in client s1 s2; do within "$name" ip link set lo up; done

    veth client eth0 proxy wan
    veth proxy lan switch node
    veth switch s1 s1 eth0
    veth switch s2 s2 eth0
    within switch ip link add lan type bridge stp_state 0 forward_delay 0 mcast_snooping 0 ||
        fail "this kernel has no bridge" "modprobe bridge"
    for name in node s1 s2; do within switch ip link set "$name" master lan; done
    within switch ip link set lan up

    host client eth0 $ROUTER4/24 $ROUTER6/64
    host client lo $CLIENT4/32 $CLIENT6/128
    within client ip route add default via $PROXY4 src $CLIENT4
    within client ip -6 route add default via $PROXY6 src $CLIENT6
    host s1 eth0 $S1_4/24 $S1_6/64
    host s2 eth0 $S2_4/24 $S2_6/64
    for name in s1 s2; do
        within "$name" ip route add default via $LAN4
        within "$name" ip -6 route add default via $LAN6
    done
}

network_down() {
    local name
    for name in "${NAMESPACES[@]}"; do
        if [ -e "$(netns "$name")" ]; then ip netns del "$PREFIX-$name" || true; fi
    done
}

# Runs that were ended by SIGKILL leave their namespaces; their processes are gone (see processes.sh).
sweep() {
    local left pid
    for left in /run/netns/mpq-*; do
        pid="${left#/run/netns/mpq-}"
        pid="${pid%%-*}"
        if [ -e "$left" ] && [ ! -e "/proc/$pid" ]; then
            say "network: removing ${left##*/}, left behind by a killed run"
            ip netns del "${left##*/}" || true
            rm -rf "/tmp/mpq-$pid" "/run/dpdk/mpq-$pid"
        fi
    done
}
