/* How figures come about: a test run repeats a program on one frame that nobody puts right in between. So each run is given the frame as it was at
 * first, of another flow, and then what is measured. Ethernet without tag, IPv4 without options. */
#pragma once

struct measuring {
	/* A power of two. */
	__u32 flows;
	__u32 next;
	/* Nothing is measured but this. */
	__u32 alone;
	__u32 length;
	/* Ethernet and IPv4 header, with 0 as source and a checksum for that. */
	__u8 headers[34];
	__u8 reserved[2];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct measuring);
} measuring SEC(".maps");

SEC("xdp")
int measure(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct measuring *m = bpf_map_lookup_elem(&measuring, &zero);
	if (!m)
		return XDP_ABORTED;
	int grown = (int)(ctx->data_end - ctx->data) - (int)m->length;
	if (grown && bpf_xdp_adjust_head(ctx, grown))
		return XDP_ABORTED;
	struct ethhdr *eth = (void *)(long)ctx->data;
	struct iphdr *ip = (void *)(eth + 1);
	if ((void *)(ip + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	__builtin_memcpy(eth, m->headers, sizeof(m->headers));
	/* An odd factor meets every flow once, neighbours never one behind the other. */
	__u32 flow = m->next++ * 2654435761u & (m->flows - 1);
	ip->saddr = bpf_htonl(8u << 24 | flow);
	__u16 *half = (__u16 *)&ip->saddr;
	ip->check = ~fold((__u16)~ip->check + half[0] + half[1]);
	return m->alone ? XDP_PASS : handle(ctx);
}
