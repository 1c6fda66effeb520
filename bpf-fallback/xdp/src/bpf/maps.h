/* All maps. The first three belong to one interface, the others to all that one process has attached to.
 * Tables of a generation are inner maps, so that the kernel exchanges each as a whole. */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "layout.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, GENERATIONS);
	__type(key, __u32);
	__type(value, struct port);
} port SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, MAX_QUEUES);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, struct count);
} counters SEC(".maps");

/* Which set of tables is in use: the one word that a push changes last. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} active SEC(".maps");

struct address_table {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__uint(key_size, 16);
	__uint(value_size, sizeof(struct address));
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, GENERATIONS);
	__type(key, __u32);
	__type(value, struct generation);
} generations SEC(".maps");

/* Rules by source and by target: a prefix's rules include those of the prefixes around it. */
struct rules_by_v4 {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(key_size, sizeof(struct prefix_v4));
	__uint(value_size, sizeof(__u64));
};

struct rules_by_v6 {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(key_size, sizeof(struct prefix_v6));
	__uint(value_size, sizeof(__u64));
};

/* Of one element, or of one for each port. */
struct rules_by_port {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_INNER_MAP);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u64));
};

#define GENERATION_OF(name, inner)                        \
	struct {                                          \
		__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS); \
		__uint(max_entries, GENERATIONS);         \
		__type(key, __u32);                       \
		__array(values, struct inner);            \
	} name SEC(".maps")

GENERATION_OF(addresses, address_table);
GENERATION_OF(sources_v4, rules_by_v4);
GENERATION_OF(sources_v6, rules_by_v6);
GENERATION_OF(targets_v4, rules_by_v4);
GENERATION_OF(targets_v6, rules_by_v6);
GENERATION_OF(source_ports, rules_by_port);
GENERATION_OF(target_ports, rules_by_port);

struct service_table {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(struct service_key));
	__uint(value_size, sizeof(struct service));
};

struct chunk_table {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_INNER_MAP);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct chunk));
};

struct backend_table {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_INNER_MAP);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct backend));
};

struct hop_table {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_INNER_MAP);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct hop));
};

struct routes_by_v4 {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(key_size, sizeof(struct route_v4));
	__uint(value_size, sizeof(__u32));
};

struct routes_by_v6 {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(key_size, sizeof(struct route_v6));
	__uint(value_size, sizeof(__u32));
};

GENERATION_OF(services, service_table);
GENERATION_OF(slots, chunk_table);
GENERATION_OF(backends, backend_table);
GENERATION_OF(hops, hop_table);
GENERATION_OF(routes_v4, routes_by_v4);
GENERATION_OF(routes_v6, routes_by_v6);

/* What ended under each rule, by generation and bit; what no rule matched is not here. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, GENERATIONS *MAX_RULES);
	__type(key, __u32);
	__type(value, struct count);
} rules SEC(".maps");
