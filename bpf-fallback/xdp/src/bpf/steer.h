/* Whose a frame is: ARP, neighbour discovery and IP are split by target address, everything else is the kernel's. */
#pragma once

#include "frame.h"

enum owner {
	KERNEL,
	/* Ours: an IP packet to a unicast address. */
	ENGINE,
	/* Ours, and nothing that could be decided here. */
	ENGINE_ALONE,
};

struct arp {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_length;
	__u8 protocol_length;
	__be16 operation;
	__u8 sender_mac[6];
	__be32 sender;
	__u8 target_mac[6];
	__be32 target;
} __attribute__((packed));

struct solicitation {
	__u8 type;
	__u8 code;
	__u16 checksum;
	__u32 reserved;
	__u8 target[16];
};

#define ICMPV6_SOLICITATION 135
#define ICMPV6_ADVERTISEMENT 136

static __always_inline int has_vlan(const __u64 vlans[64], __u16 vlan)
{
	return vlans[(vlan >> 6) & 63] >> (vlan & 63) & 1;
}

static __always_inline __u32 flags_of(void *table, const __u32 key[4])
{
	struct address *found = bpf_map_lookup_elem(table, key);
	return found ? found->flags : 0;
}

static __always_inline int is_link_local(const __u32 key[4])
{
	return (key[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

/* The receiving interface's own link-local address, where it is ours. */
static __always_inline int is_our_link_local(const struct port *port, const __u32 key[4])
{
	const __u32 *own = (const __u32 *)port->link_local;
	return own[0] && key[0] == own[0] && key[1] == own[1] && key[2] == own[2] && key[3] == own[3];
}

/* An IP packet to a unicast address. */
static __always_inline enum owner owner_of(const struct frame *f, const struct port *port, void *table, struct packet *p)
{
	struct address *known = bpf_map_lookup_elem(table, p->dst);
	__u32 flags = known ? known->flags : 0;
	p->dst_flags = flags;
	p->dst_id = known ? known->id : 0;
	if (flags & ADDRESS_OURS)
		return ENGINE;
	if (flags & ADDRESS_KERNEL || !(port->flags & PORT_ROUTES) || !is_mac(f->eth->h_dest, port->mac))
		return KERNEL;
	return ENGINE;
}

static __always_inline enum owner steer_arp(const struct frame *f, void *table)
{
	struct arp *arp = f->l3;
	__u32 key[4];
	if ((void *)(arp + 1) > f->end)
		return KERNEL;
	map_v4(arp->target, key);
	__u32 flags = flags_of(table, key);
	if (flags & ADDRESS_OURS)
		return ENGINE_ALONE;
	/* A station that says where it is now (RFC 5227, 3): a neighbour of ours may have moved. */
	return arp->sender == arp->target && !(flags & ADDRESS_KERNEL) ? ENGINE_ALONE : KERNEL;
}

static __always_inline enum owner steer_v4(const struct frame *f, const struct port *port, void *table, struct packet *p)
{
	struct iphdr *ip = f->l3;
	if ((void *)(ip + 1) > f->end)
		return KERNEL;
	/* Groups and broadcasts: nobody here listens but the kernel. */
	if ((ip->daddr & bpf_htonl(0xf0000000)) == bpf_htonl(0xe0000000) || ip->daddr == bpf_htonl(INADDR_BROADCAST))
		return KERNEL;
	map_v4(ip->daddr, p->dst);
	return owner_of(f, port, table, p);
}

static __always_inline enum owner steer_v6(const struct frame *f, const struct port *port, void *table, struct packet *p)
{
	struct ipv6hdr *ip = f->l3;
	__u32 key[4];
	if ((void *)(ip + 1) > f->end)
		return KERNEL;
	if (ip->daddr.s6_addr[0] == 0xff) {
		/* Who has one of our addresses? Its solicited-node group may be the kernel's as well, so the target decides. */
		struct solicitation *who = (void *)(ip + 1);
		if (ip->nexthdr != IPPROTO_ICMPV6 || (void *)(who + 1) > f->end)
			return KERNEL;
		/* A station that says where it is now (RFC 4861, 7.2.6): a neighbour of ours may have moved. */
		if (who->type == ICMPV6_ADVERTISEMENT) {
			copy_v6(who->target, key);
			return flags_of(table, key) & ADDRESS_KERNEL ? KERNEL : ENGINE_ALONE;
		}
		if (who->type != ICMPV6_SOLICITATION)
			return KERNEL;
		copy_v6(who->target, key);
		return flags_of(table, key) & ADDRESS_OURS || is_our_link_local(port, key) ? ENGINE_ALONE : KERNEL;
	}
	p->is_v6 = 1;
	copy_v6(&ip->daddr, p->dst);
	if (is_link_local(p->dst)) {
		p->dst_flags = ADDRESS_INTERFACE;
		return is_our_link_local(port, p->dst) ? ENGINE : KERNEL;
	}
	return owner_of(f, port, table, p);
}

static __always_inline enum owner steer(const struct frame *f, const struct port *port, void *table, struct packet *p)
{
	if (!has_vlan(port->vlans, f->vlan))
		return KERNEL;
	switch (f->ethertype) {
	case bpf_htons(ETH_P_ARP):
		return steer_arp(f, table);
	case bpf_htons(ETH_P_IP):
		return steer_v4(f, port, table, p);
	case bpf_htons(ETH_P_IPV6):
		return steer_v6(f, port, table, p);
	}
	return KERNEL;
}
