// SPDX-License-Identifier: Apache-2.0
/* The one XDP program of an interface: what is ours goes to the engine by AF_XDP unless the engine would certainly drop it; the rest is the
 * kernel's. */
#include "send.h"

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

static __always_inline int drop(struct xdp_md *ctx, enum counter reason)
{
	count(reason, ctx);
	return XDP_DROP;
}

/* What the rules permit: true if it went on, or ended, by the verdict. */
static __always_inline int goes_on(struct xdp_md *ctx, const struct frame *f, const struct port *port,
				   const struct generation *g, __u32 *slot, const struct packet *p, int *verdict)
{
	int to_service = p->dst_flags & ADDRESS_SERVICE;
	if (!(port->flags & PORT_SENDS) || !(g->flags & (to_service ? BALANCES : FORWARDS)))
		return 0;
	/* A reply of a backend may belong to a session. */
	void *table = bpf_map_lookup_elem(&addresses, slot);
	if (!table || flags_of(table, p->src) & (ADDRESS_INTERFACE | ADDRESS_BACKEND))
		return 0;
	int sent = to_service ? balance(ctx, f, port, slot, p) : forward(ctx, f, port, slot, p);
	if (sent == LEAVE)
		return 0;
	if (p->rule != NO_RULE)
		count_rule(p->rule, p->length);
	if (sent == (int)ROUTE_BLACKHOLE) {
		*verdict = drop(ctx, DROP_ROUTE_BLACKHOLE);
		return 1;
	}
	count(COUNTER_SENT, ctx);
	*verdict = sent;
	return 1;
}

static __always_inline int handle(struct xdp_md *ctx)
{
	__u32 zero = 0;
	__u32 *word = bpf_map_lookup_elem(&active, &zero);
	struct frame f;
	if (!word || take_apart(ctx, &f))
		return to_kernel(ctx);
	/* Read once: all of this packet is judged by one generation. */
	__u32 slot = *(volatile __u32 *)word;
	struct port *port_ = bpf_map_lookup_elem(&port, &slot);
	struct generation *generation = bpf_map_lookup_elem(&generations, &slot);
	void *table = bpf_map_lookup_elem(&addresses, &slot);
	if (!port_ || !generation || !table)
		return to_kernel(ctx);
	struct packet p = {};
	enum owner owner = steer(&f, port_, table, &p);
	if (owner == KERNEL)
		return to_kernel(ctx);
	if (owner == ENGINE_ALONE || generation->flags & WATCHED)
		return to_engine(ctx, port_);
	int reason = check(&f, port_, &p);
	/* Both ends are wrong: the source comes first. */
	if (reason == DROP_MARTIAN_DESTINATION && flags_of(table, p.src) & ADDRESS_INTERFACE)
		reason = DROP_MARTIAN_SOURCE;
	if (reason >= 0)
		return drop(ctx, reason);
	if (reason == LEAVE || is_engines(&f, port_, &p))
		return to_engine(ctx, port_);
	reason = judge(generation, &slot, &p);
	if (reason >= 0)
		return drop(ctx, reason);
	int verdict;
	if (reason == GO_ON && goes_on(ctx, &f, port_, generation, &slot, &p, &verdict))
		return verdict;
	return to_engine(ctx, port_);
}

#ifdef MEASURE
#include "measure.h"
#else
SEC("xdp")
int marchproxy(struct xdp_md *ctx)
{
	return handle(ctx);
}
#endif

/* The kernel keeps some helpers for programs under the GPL; none of them is used here. */
char _license[] SEC("license") = "Apache-2.0";
