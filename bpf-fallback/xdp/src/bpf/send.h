/* Sections 7 to 10 for what needs no session: balancing in direct modes and forwarding. A packet that the slow path would have to do something
 * about is left as it is. */
#pragma once

#include "hash.h"
#include "judge.h"

#define GUE_PORT 6080
#define TUNNEL_TTL 64
#define DONT_FRAGMENT 0x4000

/* What is put in front. */
struct tunnel {
	const struct backend *backend; /* none: nothing is */
	__u32 overhead;
	__u8 mode;
};

/* RFC 1624, eqn 3, for one word. */
static __always_inline __u32 exchange(__u32 sum, __u16 old, __u16 new)
{
	return sum + (__u16)~old + new;
}

static __always_inline __u16 fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* TTL and DSCP; the TOS or class that results, or less than 0. */
static __always_inline int rewrite(const struct frame *f, const struct packet *p, __u8 dscp)
{
	if (p->is_v6) {
		struct ipv6hdr *ip = f->l3;
		if ((void *)(ip + 1) > f->end)
			return -1;
		__u8 *byte = f->l3;
		__u8 tos = byte[0] << 4 | byte[1] >> 4;
		if (dscp != NO_DSCP)
			tos = dscp << 2 | (tos & 3);
		byte[0] = (byte[0] & 0xf0) | tos >> 4;
		byte[1] = tos << 4 | (byte[1] & 0x0f);
		ip->hop_limit--;
		return tos;
	}
	struct iphdr *ip = f->l3;
	__u16 *word = f->l3;
	if ((void *)(ip + 1) > f->end)
		return -1;
	__u16 old = word[0], old_ttl = word[4];
	if (dscp != NO_DSCP)
		ip->tos = dscp << 2 | (ip->tos & 3);
	ip->ttl--;
	ip->check = ~fold(exchange(exchange((__u16)~ip->check, old, word[0]), old_ttl, word[4]));
	return ip->tos;
}

/* The tunnel's headers, behind the new Ethernet header. */
static __always_inline int wrap(struct xdp_md *ctx, __u32 at, const struct packet *p, const struct tunnel *t, __u8 tos)
{
	void *end = (void *)(long)ctx->data_end;
	void *outer = (void *)(long)ctx->data + at;
	const struct backend *b = t->backend;
	int is_gue = t->mode == MODE_DSR_GUE;
	__u32 payload = p->length + (is_gue ? 8 : 0);
	__u8 protocol = is_gue ? IPPROTO_UDP : p->is_v6 ? IPPROTO_IPV6 : IPPROTO_IPIP;
	__u64 entropy = is_gue || b->is_v6 ? hash_flow(TUNNEL_SEED, p, 0) : 0;
	void *behind;
	if (b->is_v6) {
		struct ipv6hdr *ip = outer;
		__u32 *word = outer;
		if ((void *)(ip + 1) > end)
			return -1;
		word[0] = bpf_htonl(6u << 28 | (__u32)tos << 20 | ((__u32)entropy & 0xfffff));
		ip->payload_len = bpf_htons(payload);
		ip->nexthdr = protocol;
		ip->hop_limit = TUNNEL_TTL;
		__builtin_memcpy(&ip->saddr, b->src, 16);
		__builtin_memcpy(&ip->daddr, b->dst, 16);
		behind = ip + 1;
	} else {
		struct iphdr *ip = outer;
		__u32 *word = outer;
		if ((void *)(ip + 1) > end)
			return -1;
		word[0] = bpf_htonl(0x45000000 | (__u32)tos << 16 | (20 + payload));
		word[1] = bpf_htonl(DONT_FRAGMENT);
		word[2] = bpf_htonl((__u32)TUNNEL_TTL << 24 | (__u32)protocol << 16);
		word[3] = b->src[0];
		word[4] = b->dst[0];
		__u64 sum = (__u64)word[0] + word[1] + word[2] + word[3] + word[4];
		sum = (sum & 0xffffffff) + (sum >> 32);
		sum = (sum & 0xffff) + (sum >> 16);
		sum = (sum & 0xffff) + (sum >> 16);
		ip->check = ~(__u16)((sum & 0xffff) + (sum >> 16));
		behind = ip + 1;
	}
	if (is_gue) {
		__u16 *udp = behind;
		if (behind + 8 > end)
			return -1;
		udp[0] = bpf_htons(49152 + (entropy >> 20 & 16383));
		udp[1] = bpf_htons(GUE_PORT);
		udp[2] = bpf_htons(payload);
		udp[3] = 0;
	}
	return 0;
}

/* The Ethernet header and the egress interface's tag. */
static __always_inline int enframe(struct xdp_md *ctx, const struct hop *hop, int is_v6)
{
	struct ethhdr *eth = (void *)(long)ctx->data;
	struct tag *tag = (void *)(eth + 1);
	void *end = (void *)(long)ctx->data_end;
	__be16 ethertype = is_v6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP);
	if ((void *)(eth + 1) > end)
		return -1;
	__builtin_memcpy(eth->h_dest, hop->dst_mac, 6);
	__builtin_memcpy(eth->h_source, hop->src_mac, 6);
	eth->h_proto = ethertype;
	if (hop->vlan) {
		if ((void *)(tag + 1) > end)
			return -1;
		eth->h_proto = bpf_htons(ETH_P_8021Q);
		tag->tci = bpf_htons(hop->vlan);
		tag->ethertype = ethertype;
	}
	return 0;
}

/* LEAVE, or a verdict. Whatever could fail is looked at before the frame is touched. */
static __always_inline int send(struct xdp_md *ctx, const struct frame *f, const struct packet *p, const struct hop *hop,
				const struct tunnel *t, __u8 dscp)
{
	__u32 header = sizeof(struct ethhdr) + (hop->vlan ? sizeof(struct tag) : 0);
	int is_v6 = t->backend ? t->backend->is_v6 : p->is_v6;
	if (!hop->known || p->ttl <= 1 || p->length + t->overhead > hop->mtu)
		return LEAVE;
	int grows = (int)(header + t->overhead) - (int)f->header;
	if (grows && bpf_xdp_adjust_head(ctx, -grows))
		return LEAVE;
	/* The frame may be elsewhere now, and begin elsewhere. */
	struct frame now = {.end = (void *)(long)ctx->data_end, .l3 = (void *)(long)ctx->data + header + t->overhead};
	int tos = rewrite(&now, p, dscp);
	if (tos < 0 || (t->backend && wrap(ctx, header, p, t, tos)) || enframe(ctx, hop, is_v6))
		return XDP_ABORTED;
	if (p->padding && bpf_xdp_adjust_tail(ctx, -(int)p->padding))
		return XDP_ABORTED;
	return ctx->ingress_ifindex == hop->ifindex ? XDP_TX : bpf_redirect(hop->ifindex, 0);
}

static __always_inline const struct hop *hop_of(__u32 *slot, __u32 number)
{
	void *table = bpf_map_lookup_elem(&hops, slot);
	return table ? bpf_map_lookup_elem(table, &number) : 0;
}

/* The mark of a service, else nothing of what comes from an interface that is not trusted. */
static __always_inline __u8 dscp_of(const struct frame *f, const struct port *port, __u8 mark)
{
	return mark != NO_DSCP ? mark : has_vlan(port->trusted, f->vlan) ? NO_DSCP : 0;
}

static __always_inline int balance(struct xdp_md *ctx, const struct frame *f, const struct port *port, __u32 *slot,
				   const struct packet *p)
{
	struct service_key key = {p->dst_id, p->dport, p->protocol, 0};
	if (!p->has_ports && !p->is_echo)
		return LEAVE;
	void *table = bpf_map_lookup_elem(&services, slot);
	struct service *service = table ? bpf_map_lookup_elem(table, &key) : 0;
	if (!service)
		return LEAVE;
	int is_tunnel = service->mode != MODE_DSR_MAC;
	/* The engine lowers its MSS. */
	if (is_tunnel && p->has_syn)
		return LEAVE;
	__u64 hash = hash_flow(MAGLEV_FLOW_SEED, p, service->affinity);
	__u32 place = service->first_slot + remainder_of(hash, service->slots, service->reciprocal);
	__u32 number = place / CHUNK;
	table = bpf_map_lookup_elem(&slots, slot);
	struct chunk *chunk = table ? bpf_map_lookup_elem(table, &number) : 0;
	if (!chunk)
		return LEAVE;
	number = chunk->slots[place % CHUNK];
	if (number == NOBODY)
		return LEAVE;
	number += service->first_backend;
	table = bpf_map_lookup_elem(&backends, slot);
	struct backend *backend = table ? bpf_map_lookup_elem(table, &number) : 0;
	const struct hop *hop = backend ? hop_of(slot, backend->hop) : 0;
	if (!hop)
		return LEAVE;
	struct tunnel t = {0, 0, service->mode};
	if (is_tunnel) {
		t.backend = backend;
		t.overhead = (backend->is_v6 ? 40 : 20) + (service->mode == MODE_DSR_GUE ? 8 : 0);
	}
	return send(ctx, f, p, hop, &t, dscp_of(f, port, service->dscp));
}

static __always_inline int forward(struct xdp_md *ctx, const struct frame *f, const struct port *port, __u32 *slot,
				   const struct packet *p)
{
	__u32 *route;
	if (p->is_v6) {
		struct route_v6 key = {160, bpf_htonl(port->table), {p->dst[0], p->dst[1], p->dst[2], p->dst[3]}};
		void *table = bpf_map_lookup_elem(&routes_v6, slot);
		route = table ? bpf_map_lookup_elem(table, &key) : 0;
	} else {
		struct route_v4 key = {64, bpf_htonl(port->table), p->dst[3]};
		void *table = bpf_map_lookup_elem(&routes_v4, slot);
		route = table ? bpf_map_lookup_elem(table, &key) : 0;
	}
	if (!route || *route == ROUTE_LEAVE)
		return LEAVE;
	if (*route == ROUTE_BLACKHOLE)
		return ROUTE_BLACKHOLE;
	const struct hop *hop = hop_of(slot, *route);
	struct tunnel none = {};
	return hop ? send(ctx, f, p, hop, &none, dscp_of(f, port, NO_DSCP)) : LEAVE;
}
