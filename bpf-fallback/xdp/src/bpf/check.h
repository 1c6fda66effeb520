/* Sections 1 to 3 of the engine's BEHAVIOUR.md, as far as they can be judged here: in their order, under their reasons. */
#pragma once

#include "steer.h"

/* Beside a reason: */
#define LEAVE -1 /* the engine has to look at it */
#define GO_ON -2 /* nothing is wrong so far */

#define ICMP_FIRST_ND 133
#define ICMP_LAST_ND 137

static __always_inline int check_l4(const struct frame *f, void *l4, __u32 length, struct packet *p)
{
	__u8 *byte = l4;
	__u16 *word = l4;
	switch (p->protocol) {
	case IPPROTO_TCP: {
		if (length < 20)
			return DROP_L4_MALFORMED;
		if (l4 + 20 > f->end)
			return LEAVE;
		__u32 header = byte[12] >> 4 << 2;
		p->has_syn = byte[13] >> 1 & 1;
		if (header < 20 || header > length)
			return DROP_L4_MALFORMED;
		break;
	}
	case IPPROTO_UDP: {
		if (length < 8)
			return DROP_L4_MALFORMED;
		if (l4 + 8 > f->end)
			return LEAVE;
		__u32 datagram = bpf_ntohs(word[2]);
		if (datagram < 8 || datagram > length)
			return DROP_L4_MALFORMED;
		break;
	}
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		/* The number over the other family is a protocol like others. */
		if ((p->protocol == IPPROTO_ICMPV6) != p->is_v6)
			return GO_ON;
		if (length < 8)
			return DROP_L4_MALFORMED;
		if (l4 + 8 > f->end)
			return LEAVE;
		/* Errors belong to the session that they quote; neighbour discovery is the slow path's. */
		if (p->is_v6 ? byte[0] < 128 || (byte[0] >= ICMP_FIRST_ND && byte[0] <= ICMP_LAST_ND)
			     : byte[0] == 3 || byte[0] == 4 || byte[0] == 5 || byte[0] == 11 || byte[0] == 12)
			return LEAVE;
		if (byte[0] == (p->is_v6 ? 128 : 8)) {
			p->is_echo = 1;
			p->sport = bpf_ntohs(word[2]);
		}
		return GO_ON;
	default:
		return GO_ON;
	}
	p->has_ports = 1;
	p->sport = bpf_ntohs(word[0]);
	p->dport = bpf_ntohs(word[1]);
	return GO_ON;
}

/* 0/8, 127/8 and 169.254/16: neither source nor destination. */
static __always_inline int is_v4_martian(__u32 address)
{
	__u32 first = address >> 24;
	return first == 0 || first == 127 || address >> 16 == 0xa9fe;
}

static __always_inline int is_checksum_wrong(const struct iphdr *ip)
{
	const __u32 *word = (const __u32 *)ip;
	__u64 sum = (__u64)word[0] + word[1] + word[2] + word[3] + word[4];
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum != 0xffff;
}

static __always_inline int check_v4(const struct frame *f, struct packet *p)
{
	struct iphdr *ip = f->l3;
	if ((void *)(ip + 1) > f->end)
		return LEAVE;
	__u64 there = f->end - f->l3;
	__u32 header = ip->ihl << 2;
	__u32 total = bpf_ntohs(ip->tot_len);
	if (ip->version != 4 || header < 20 || total < header)
		return DROP_IP_MALFORMED;
	if (total > there)
		return DROP_IP_TRUNCATED;
	if (header != 20)
		return LEAVE;
	if (is_checksum_wrong(ip))
		return DROP_IP_CHECKSUM;
	__u32 src = bpf_ntohl(ip->saddr);
	__u32 dst = bpf_ntohl(ip->daddr);
	map_v4(ip->saddr, p->src);
	if (is_v4_martian(src) || src >> 24 >= 224)
		return DROP_MARTIAN_SOURCE;
	if (is_v4_martian(dst) || dst >> 24 >= 240)
		return DROP_MARTIAN_DESTINATION;
	/* More fragments, or an offset. */
	if (ip->frag_off & bpf_htons(0x3fff))
		return LEAVE;
	p->protocol = ip->protocol;
	p->length = total;
	p->padding = there - total;
	p->ttl = ip->ttl;
	return check_l4(f, ip + 1, total - 20, p);
}

/* ::1 and ::ffff:0:0/96. */
static __always_inline int is_v6_martian(const __u32 a[4])
{
	return !(a[0] | a[1]) && ((!a[2] && a[3] == bpf_htonl(1)) || a[2] == bpf_htonl(0xffff));
}

static __always_inline int is_unspecified(const __u32 a[4])
{
	return !(a[0] | a[1] | a[2] | a[3]);
}

static __always_inline int check_v6(const struct frame *f, struct packet *p)
{
	struct ipv6hdr *ip = f->l3;
	if ((void *)(ip + 1) > f->end)
		return LEAVE;
	__u64 there = f->end - f->l3;
	__u32 length = bpf_ntohs(ip->payload_len);
	if (ip->version != 6)
		return DROP_IP_MALFORMED;
	if (40 + length > there)
		return DROP_IP_TRUNCATED;
	copy_v6(&ip->saddr, p->src);
	if (ip->saddr.s6_addr[0] == 0xff || is_v6_martian(p->src))
		return DROP_MARTIAN_SOURCE;
	if (is_unspecified(p->dst) || is_v6_martian(p->dst))
		return DROP_MARTIAN_DESTINATION;
	p->protocol = ip->nexthdr;
	p->length = 40 + length;
	p->padding = there - p->length;
	p->ttl = ip->hop_limit;
	/* Hop-by-hop, routing, fragment and destination options. */
	if (p->protocol == 0 || p->protocol == 43 || p->protocol == 44 || p->protocol == 60)
		return LEAVE;
	return check_l4(f, ip + 1, length, p);
}

static __always_inline int check(const struct frame *f, const struct port *port, struct packet *p)
{
	const __u8 *src = f->eth->h_source;
	/* To another station: the kernel's bridges may want it, so steering lets only those to addresses of ours come here. */
	if (!is_group(f->eth->h_dest) && !is_mac(f->eth->h_dest, port->mac))
		return LEAVE;
	if (is_group(src) || is_mac(src, port->mac) || !(*(__u16 *)src | *(__u16 *)(src + 2) | *(__u16 *)(src + 4)))
		return DROP_L2_BAD_SOURCE;
	return p->is_v6 ? check_v6(f, p) : check_v4(f, p);
}
