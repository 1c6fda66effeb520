/* What the loader writes and the program reads. The same structs stand in abi.rs; sizes are compared by a test. */
#pragma once

#include <linux/types.h>

/* Sets of tables of which one is in use; the other is filled meanwhile. */
#define GENERATIONS 2
/* Receive queues of a port. */
#define MAX_QUEUES 64

/* struct port.flags */
#define PORT_ROUTES 1 /* what goes to our MAC address and to nobody here is forwarded, so it is ours */
#define PORT_SENDS 2  /* all its interfaces have one routing table: what goes on may do so here */

/* One attached interface. */
struct port {
	__u8 mac[6];
	__u16 flags;
	/* Verdict on what is ours while no socket listens to its queue: XDP_PASS or XDP_DROP. */
	__u32 fallback;
	__u32 reserved;
	/* Its link-local address, if that is ours and not the kernel's; else zeros. */
	__u8 link_local[16];
	/* Bit by VLAN (0: untagged): an interface of ours is there. */
	__u64 vlans[64];
	/* And rules may be asked here: nothing that comes before them (reverse path) is left to the engine. */
	__u64 judged[64];
	/* And DSCP is trusted here. */
	__u64 trusted[64];
	/* The routing table of its interfaces. */
	__u32 table;
	__u32 reserved_too;
};

/* struct address.flags */
#define ADDRESS_INTERFACE 1 /* of an interface of ours */
#define ADDRESS_SERVICE 2   /* of a service or a source pool */
#define ADDRESS_KERNEL 4    /* the kernel's own */
#define ADDRESS_BROADCAST 8 /* directed broadcast of a connected prefix */
#define ADDRESS_BACKEND 16  /* packets from there may belong to a session */
#define ADDRESS_OURS (ADDRESS_INTERFACE | ADDRESS_SERVICE)

/* Whose an address is; the key is the address, IPv4 as ::ffff:a.b.c.d. */
struct address {
	__u32 flags;
	__u32 id;
};

/* Rules that the program knows: one bit each, in their order. */
#define MAX_RULES 64

/* struct generation.flags: what any rule looks at. */
#define LOOKS_AT_SOURCE_V4 1
#define LOOKS_AT_SOURCE_V6 2
#define LOOKS_AT_TARGET_V4 4
#define LOOKS_AT_TARGET_V6 8
#define LOOKS_AT_SOURCE_PORT 16
#define LOOKS_AT_TARGET_PORT 32
/* What no rule matches is denied: all rules are here. */
#define DENIES_THE_REST 64
/* There are no rules. */
#define PERMITS_ALL 128
/* There are services or routes here. */
#define BALANCES 256
#define FORWARDS 512
/* Somebody looks at packets: all of ours go to the engine, which can show them. */
#define WATCHED 1024

/* One set of tables, beside its maps. */
struct generation {
	/* All rules. */
	__u64 all;
	/* Those that end a packet here; what matches another one first is the engine's. */
	__u64 ends;
	/* Those that let a packet go on here. */
	__u64 permits;
	/* Those that match packets without ports. */
	__u64 portless;
	__u32 flags;
	__u32 reserved;
	/* Those that match a protocol. */
	__u64 protocols[256];
};

/* Keys of the prefix tables. */
struct prefix_v4 {
	__u32 length;
	__be32 address;
};

struct prefix_v6 {
	__u32 length;
	__u32 address[4];
};

/* A service without sessions. */
struct service_key {
	__u32 address; /* struct address.id */
	__u16 port;    /* host order; 0 for echo */
	__u8 protocol;
	__u8 reserved;
};

/* enum of struct service.mode: the engine's ServiceMode */
#define MODE_DSR_MAC 2
#define MODE_DSR_IPIP 3
#define MODE_DSR_GUE 4
#define NO_DSCP 255

struct service {
	/* The ring: its first slot, how many, and floor(2^64 / how many). */
	__u32 first_slot;
	__u32 slots;
	__u64 reciprocal;
	__u32 first_backend;
	__u8 mode;
	/* Source affinity: the ring is asked for addresses alone. */
	__u8 affinity;
	__u8 dscp;
	__u8 reserved;
};

/* Slots of rings, a cache line of them. */
#define CHUNK 32
#define NOBODY 0xffff

struct chunk {
	__u16 slots[CHUNK];
};

/* The ends of a backend's tunnel, IPv4 in the first four octets, and the way there. */
struct backend {
	__u32 src[4];
	__u32 dst[4];
	__u32 hop;
	__u32 is_v6;
};

/* A next hop. */
struct hop {
	__u8 dst_mac[6];
	/* Its MAC address is. The loader writes an address only while it is not. */
	__u16 known;
	__u8 src_mac[6];
	__u16 vlan;
	__u32 ifindex;
	__u32 mtu;
};

/* Keys of routes; the length includes the table's 32 bits. */
struct route_v4 {
	__u32 length;
	__u32 table;
	__be32 address;
};

struct route_v6 {
	__u32 length;
	__u32 table;
	__u32 address[4];
};

/* Values of routes: a hop's number, or: */
#define ROUTE_LEAVE 0xffffffff
#define ROUTE_BLACKHOLE 0xfffffffe

/* Indexes of `counters`: drops by the engine's reasons, then what went where. */
enum counter {
	DROP_L2_BAD_SOURCE,
	DROP_IP_MALFORMED,
	DROP_IP_TRUNCATED,
	DROP_IP_CHECKSUM,
	DROP_MARTIAN_SOURCE,
	DROP_MARTIAN_DESTINATION,
	DROP_L4_MALFORMED,
	DROP_RULE_DENY,
	DROP_ROUTE_BLACKHOLE,
	REASONS,
	COUNTER_TO_KERNEL = REASONS,
	COUNTER_TO_ENGINE,
	/* Ours, but no socket listens to the queue. */
	COUNTER_UNCLAIMED_PASS,
	COUNTER_UNCLAIMED_DROP,
	/* Sent on from here. */
	COUNTER_SENT,
	COUNTERS,
};

struct count {
	__u64 packets;
	__u64 octets;
};
