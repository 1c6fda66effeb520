// SPDX-License-Identifier: Apache-2.0
/* The one XDP program of an interface: what is ours goes to the engine by AF_XDP, the rest to the kernel. */
#include "steer.h"

static __always_inline void count(enum counter which, struct xdp_md *ctx)
{
	__u32 key = which;
	struct count *count = bpf_map_lookup_elem(&counters, &key);
	if (count) {
		count->packets++;
		count->octets += ctx->data_end - ctx->data;
	}
}

static __always_inline int to_kernel(struct xdp_md *ctx)
{
	count(COUNTER_TO_KERNEL, ctx);
	return XDP_PASS;
}

static __always_inline int to_engine(struct xdp_md *ctx, const struct port *port)
{
	int verdict = bpf_redirect_map(&sockets, ctx->rx_queue_index, port->fallback & (XDP_PASS | XDP_DROP));
	count(verdict == XDP_REDIRECT ? COUNTER_TO_ENGINE
	      : verdict == XDP_DROP   ? COUNTER_UNCLAIMED_DROP
				      : COUNTER_UNCLAIMED_PASS,
	      ctx);
	return verdict;
}

SEC("xdp")
int marchproxy(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct port *port_ = bpf_map_lookup_elem(&port, &zero);
	__u32 *generation = bpf_map_lookup_elem(&active, &zero);
	struct frame f;
	if (!port_ || !generation || take_apart(ctx, &f))
		return to_kernel(ctx);
	void *table = bpf_map_lookup_elem(&addresses, generation);
	if (!table || steer(&f, port_, table) == KERNEL)
		return to_kernel(ctx);
	return to_engine(ctx, port_);
}

/* The kernel keeps some helpers for programs under the GPL; none of them is used here. */
char _license[] SEC("license") = "Apache-2.0";
