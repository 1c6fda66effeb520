/* Taking a frame apart as far as steering needs it. */
#pragma once

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>

#include "maps.h"

struct frame {
	void *end;
	struct ethhdr *eth;
	/* Behind the Ethernet header and the one tag. */
	void *l3;
	__u16 ethertype; /* network order */
	__u16 vlan;      /* 0: untagged */
	__u32 header;    /* octets before l3 */
};

/* An IP packet whose headers are plain: no options, no extension headers, no fragment. */
struct packet {
	/* As among the addresses: IPv4 as ::ffff:a.b.c.d. */
	__u32 src[4];
	__u32 dst[4];
	/* What is known of the destination. */
	__u32 dst_flags;
	__u32 dst_id;
	/* Octets from the IP header on, and of padding behind them. */
	__u32 length;
	__u32 padding;
	__u8 is_v6;
	__u8 protocol;
	__u8 has_ports;
	__u8 has_syn;
	/* An echo request; its identifier stands for the source port, as in sessions. */
	__u8 is_echo;
	__u8 ttl;
	__u16 sport;
	__u16 dport;
	/* The rule that lets it go on, in `rules`; of none: */
	__u32 rule;
};

#define NO_RULE 0xffffffff

struct tag {
	__be16 tci;
	__be16 ethertype;
};

static __always_inline int take_apart(struct xdp_md *ctx, struct frame *f)
{
	f->end = (void *)(long)ctx->data_end;
	f->eth = (void *)(long)ctx->data;
	f->l3 = f->eth + 1;
	f->vlan = 0;
	f->header = sizeof(struct ethhdr);
	if (f->l3 > f->end)
		return -1;
	f->ethertype = f->eth->h_proto;
	if (f->ethertype == bpf_htons(ETH_P_8021Q)) {
		struct tag *tag = f->l3;
		if ((void *)(tag + 1) > f->end)
			return -1;
		/* Identifier 0 is a priority tag: the frame belongs to no VLAN. */
		f->vlan = bpf_ntohs(tag->tci) & 0xfff;
		f->ethertype = tag->ethertype;
		f->l3 = tag + 1;
		f->header += sizeof(struct tag);
	}
	return 0;
}

static __always_inline int is_mac(const __u8 *a, const __u8 *b)
{
	return *(__u16 *)a == *(__u16 *)b && *(__u16 *)(a + 2) == *(__u16 *)(b + 2) &&
	       *(__u16 *)(a + 4) == *(__u16 *)(b + 4);
}

static __always_inline int is_group(const __u8 *mac)
{
	return mac[0] & 1;
}

/* The key of an IPv4 address among the addresses. */
static __always_inline void map_v4(__be32 address, __u32 key[4])
{
	key[0] = 0;
	key[1] = 0;
	key[2] = bpf_htonl(0xffff);
	key[3] = address;
}

static __always_inline void copy_v6(const void *address, __u32 key[4])
{
	__builtin_memcpy(key, address, 16);
}
