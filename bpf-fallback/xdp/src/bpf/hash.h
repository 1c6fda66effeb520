/* The engine's hash (dataplane/engine/src/hash.rs): all tiers pick the same backend. */
#pragma once

#include "frame.h"

#define MAGLEV_FLOW_SEED 0x4D61676C65764631
#define TUNNEL_SEED 0x54756E6E656C466C

/* The upper half of the product; BPF multiplies 64 bits to 64. */
static __always_inline __u64 high_product(__u64 a, __u64 b)
{
	__u64 a0 = (__u32)a, a1 = a >> 32, b0 = (__u32)b, b1 = b >> 32;
	__u64 low = a0 * b0, cross = a1 * b0, other = a0 * b1;
	__u64 middle = (low >> 32) + (__u32)cross + (__u32)other;
	return a1 * b1 + (cross >> 32) + (other >> 32) + (middle >> 32);
}

static __always_inline __u64 mix(__u64 a, __u64 b)
{
	return high_product(a, b) ^ a * b;
}

static __always_inline __u64 add_word(__u64 h, __u64 word)
{
	return mix(h ^ word, 0xD6E8FEB86659FD93);
}

static __always_inline __u64 two_words(__u32 high, __u32 low)
{
	return (__u64)bpf_ntohl(high) << 32 | bpf_ntohl(low);
}

static __always_inline __u64 hash_flow(__u64 seed, const struct packet *p, int addresses_alone)
{
	__u64 h = seed ^ 0x9E3779B97F4A7C15;
	__u64 meta = addresses_alone ? 0 : (__u64)p->protocol << 32 | (__u32)p->sport << 16 | p->dport;
	if (!p->is_v6) {
		h = add_word(h, two_words(p->src[3], p->dst[3]));
		return mix(add_word(h, meta) ^ 2, 0xA0761D6478BD642F);
	}
	h = add_word(h, two_words(p->src[0], p->src[1]));
	h = add_word(h, two_words(p->src[2], p->src[3]));
	h = add_word(h, two_words(p->dst[0], p->dst[1]));
	h = add_word(h, two_words(p->dst[2], p->dst[3]));
	return mix(add_word(h, meta | (__u64)1 << 40) ^ 5, 0xA0761D6478BD642F);
}

/* The remainder, by the divisor's reciprocal floor(2^64 / divisor): the quotient comes out right or one too small. */
static __always_inline __u32 remainder_of(__u64 number, __u32 divisor, __u64 reciprocal)
{
	__u64 rest = number - high_product(number, reciprocal) * divisor;
	return rest >= divisor ? rest - divisor : rest;
}
