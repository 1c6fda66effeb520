/* Section 6: rules that need neither a session nor anything but addresses, protocol and ports. */
#pragma once

#include "check.h"

/* Section 4 and what else comes before rules: true if the engine has to decide about it. */
static __always_inline int is_engines(const struct frame *f, const struct port *port, const struct packet *p)
{
	if (p->dst_flags & (ADDRESS_INTERFACE | ADDRESS_BROADCAST) || !is_mac(f->eth->h_dest, port->mac))
		return 1;
	if (p->is_v6 && (is_unspecified(p->src) || is_link_local(p->src)))
		return 1;
	return !has_vlan(port->judged, f->vlan);
}

static __always_inline __u64 found(void *table, const void *key)
{
	__u64 *bits = table ? bpf_map_lookup_elem(table, key) : 0;
	return bits ? *bits : 0;
}

static __always_inline __u64 rules_by_address(void *v4, void *v6, __u32 *slot, const __u32 address[4], int is_v6)
{
	if (is_v6) {
		struct prefix_v6 key = {128, {address[0], address[1], address[2], address[3]}};
		return found(bpf_map_lookup_elem(v6, slot), &key);
	}
	struct prefix_v4 key = {32, address[3]};
	return found(bpf_map_lookup_elem(v4, slot), &key);
}

/* The rules that match, a bit each. What no rule looks at is not looked up. */
static __always_inline __u64 rules_that_match(const struct generation *g, __u32 *slot, const struct packet *p)
{
	__u64 bits = g->all & g->protocols[p->protocol];
	if (!p->has_ports)
		bits &= g->portless;
	if (bits && g->flags & (p->is_v6 ? LOOKS_AT_SOURCE_V6 : LOOKS_AT_SOURCE_V4))
		bits &= rules_by_address(&sources_v4, &sources_v6, slot, p->src, p->is_v6);
	if (bits && g->flags & (p->is_v6 ? LOOKS_AT_TARGET_V6 : LOOKS_AT_TARGET_V4))
		bits &= rules_by_address(&targets_v4, &targets_v6, slot, p->dst, p->is_v6);
	if (bits && p->has_ports && g->flags & LOOKS_AT_SOURCE_PORT) {
		__u32 port = p->sport;
		bits &= found(bpf_map_lookup_elem(&source_ports, slot), &port);
	}
	if (bits && p->has_ports && g->flags & LOOKS_AT_TARGET_PORT) {
		__u32 port = p->dport;
		bits &= found(bpf_map_lookup_elem(&target_ports, slot), &port);
	}
	return bits;
}

/* The number of a word's only bit. */
static __always_inline __u32 number_of(__u64 bit)
{
	return (!!(bit & 0xffffffff00000000) << 5) | (!!(bit & 0xffff0000ffff0000) << 4) |
	       (!!(bit & 0xff00ff00ff00ff00) << 3) | (!!(bit & 0xf0f0f0f0f0f0f0f0) << 2) |
	       (!!(bit & 0xcccccccccccccccc) << 1) | !!(bit & 0xaaaaaaaaaaaaaaaa);
}

/* Octets from the IP header on, as the engine counts its rules. */
static __always_inline void count_rule(__u32 index, __u64 octets)
{
	struct count *count = bpf_map_lookup_elem(&rules, &index);
	if (count) {
		count->packets++;
		count->octets += octets;
	}
}

/* GO_ON: the rules permit it, the one in p->rule does. */
static __always_inline int judge(const struct generation *g, __u32 *slot, struct packet *p)
{
	p->rule = NO_RULE;
	if (g->flags & PERMITS_ALL)
		return GO_ON;
	__u64 bits = rules_that_match(g, slot, p);
	__u64 first = bits & -bits;
	if (bits ? !(first & (g->ends | g->permits)) : !(g->flags & DENIES_THE_REST))
		return LEAVE;
	__u32 index = *slot * MAX_RULES + number_of(first);
	if (first & g->permits) {
		p->rule = index;
		return GO_ON;
	}
	/* A reply of a backend is judged with its session, whatever the rules say of its own addresses. */
	void *table = bpf_map_lookup_elem(&addresses, slot);
	if (!table || flags_of(table, p->src) & (ADDRESS_INTERFACE | ADDRESS_BACKEND))
		return LEAVE;
	if (bits)
		count_rule(index, p->length);
	return DROP_RULE_DENY;
}
