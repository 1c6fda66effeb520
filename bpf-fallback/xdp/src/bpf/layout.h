/* What the loader writes and the program reads. The same structs stand in abi.rs; sizes are compared by a test. */
#pragma once

#include <linux/types.h>

/* Sets of tables of which one is in use; the other is filled meanwhile. */
#define GENERATIONS 2
/* Receive queues of a port. */
#define MAX_QUEUES 64

/* struct port.flags */
#define PORT_ROUTES 1 /* what goes to our MAC address and to nobody here is forwarded, so it is ours */

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
};

/* struct address.flags */
#define ADDRESS_INTERFACE 1 /* of an interface of ours */
#define ADDRESS_SERVICE 2   /* of a service or a source pool */
#define ADDRESS_KERNEL 4    /* the kernel's own */

/* Whose an address is; the key is the address, IPv4 as ::ffff:a.b.c.d. */
struct address {
	__u32 flags;
	__u32 id;
};

/* Indexes of `counters`: first drops by reason, then what went where. */
enum counter {
	COUNTER_TO_KERNEL,
	COUNTER_TO_ENGINE,
	/* Ours, but no socket listens to the queue. */
	COUNTER_UNCLAIMED_PASS,
	COUNTER_UNCLAIMED_DROP,
	COUNTERS,
};

struct count {
	__u64 packets;
	__u64 octets;
};
