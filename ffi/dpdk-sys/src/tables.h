/* DPDK's tables as Rust sees them: what is inline code there, what takes structs that change between releases, and what is
 * worth a call only for many keys at once. Everything else Rust calls itself. */
#ifndef MARCHPROXY_TABLES_H
#define MARCHPROXY_TABLES_H

#include <stddef.h>
#include <stdint.h>

#include <rte_acl.h>
#include <rte_fib.h>
#include <rte_hash.h>
#include <rte_sched.h>

struct rte_fib6;
struct rte_lpm;
struct rte_lpm6;

enum {
	MP_HASH_BULK_MAX = RTE_HASH_LOOKUP_BULK_MAX,
	MP_ACL_PRIORITY_MAX = RTE_ACL_MAX_PRIORITY,
	MP_SCHED_BE_CLASS = RTE_SCHED_TRAFFIC_CLASS_BE,
	MP_SCHED_BE_QUEUES = RTE_SCHED_BE_QUEUES_PER_PIPE,
};

/* All creators answer NULL and set rte_errno; memory comes from the calling thread's socket. */

/* Next hops of 4 bytes, of which DPDK takes one bit: 31 are left. `none` is the answer where no prefix matches. */
struct rte_fib *mp_fib_create(const char *name, uint32_t routes, uint32_t groups, uint32_t none);
struct rte_fib6 *mp_fib6_create(const char *name, uint32_t routes, uint32_t groups, uint32_t none);
void mp_fib6_free(struct rte_fib6 *fib);
int mp_fib6_add(struct rte_fib6 *fib, const uint8_t *prefix, uint8_t len, uint32_t hop);
int mp_fib6_lookup(struct rte_fib6 *fib, const uint8_t *addresses, uint64_t *hops, uint32_t n);

struct rte_lpm *mp_lpm_create(const char *name, uint32_t routes, uint32_t groups);
void mp_lpm_free(struct rte_lpm *lpm);
int mp_lpm_add(struct rte_lpm *lpm, uint32_t prefix, uint8_t len, uint32_t hop);
void mp_lpm_lookup(const struct rte_lpm *lpm, const uint32_t *addresses, uint32_t *hops, uint32_t n, uint32_t none);
struct rte_lpm6 *mp_lpm6_create(const char *name, uint32_t routes, uint32_t groups);
void mp_lpm6_free(struct rte_lpm6 *lpm);
int mp_lpm6_add(struct rte_lpm6 *lpm, const uint8_t *prefix, uint8_t len, uint32_t hop);
/* -1 where no prefix matches. */
int mp_lpm6_lookup(const struct rte_lpm6 *lpm, const uint8_t *addresses, int32_t *hops, uint32_t n);

struct rte_hash *mp_hash_create(const char *name, uint32_t entries, uint32_t key_len);

/* A rule over the classic five fields. IPv4 addresses are the first word. */
struct mp_acl_rule {
	uint32_t src[4];
	uint32_t dst[4];
	uint16_t sport[2];
	uint16_t dport[2];
	uint8_t src_len;
	uint8_t dst_len;
	uint8_t protocol;
	uint8_t protocol_mask;
	int32_t priority;
	uint32_t answer;
};
/* What a packet shows, in network byte order; addresses of IPv4 take four bytes each and the ports follow at once. */
struct mp_acl_key {
	uint8_t bytes[40];
};
struct rte_acl_ctx *mp_acl_create(const char *name, int v6, uint32_t rules);
int mp_acl_add(struct rte_acl_ctx *acl, int v6, const struct mp_acl_rule *rule);
int mp_acl_build(struct rte_acl_ctx *acl, int v6, size_t limit);
int mp_acl_classify(const struct rte_acl_ctx *acl, const struct mp_acl_key *keys, uint32_t *answers, uint32_t n);

/* Meters with their profiles, one cache line (srTCM) or two (trTCM) each. The clock is the caller's, in cycles. */
struct mp_srtcm;
struct mp_trtcm;
struct mp_srtcm *mp_srtcm_create(uint32_t n);
struct mp_trtcm *mp_trtcm_create(uint32_t n);
void mp_srtcm_free(struct mp_srtcm *meters);
void mp_trtcm_free(struct mp_trtcm *meters);
int mp_srtcm_set(struct mp_srtcm *meters, uint32_t at, uint64_t cir, uint64_t cbs, uint64_t ebs, uint64_t now);
int mp_trtcm_set(struct mp_trtcm *meters, uint32_t at, uint64_t cir, uint64_t cbs, uint64_t pir, uint64_t pbs, uint64_t now);
/* DPDK rounds a rate to whole bytes per whole number of cycles. */
struct mp_step {
	uint64_t cycles;
	uint64_t bytes;
};
struct mp_step mp_srtcm_step(const struct mp_srtcm *meters, uint32_t at);
struct mp_step mp_trtcm_committed(const struct mp_trtcm *meters, uint32_t at);
struct mp_step mp_trtcm_peak(const struct mp_trtcm *meters, uint32_t at);
/* Colours 0, 1, 2. */
void mp_srtcm_burst(struct mp_srtcm *meters, const uint32_t *which, const uint16_t *lens, uint8_t *colours, uint32_t n,
	uint64_t now);
void mp_trtcm_burst(struct mp_trtcm *meters, const uint32_t *which, const uint16_t *lens, uint8_t *colours, uint32_t n,
	uint64_t now);

/* One port with one subport; every pipe may take the whole rate. */
struct mp_sched_config {
	uint64_t bytes_per_second;
	uint32_t mtu;
	uint32_t overhead;
	uint32_t pipes;
	uint16_t queue_len;
	uint8_t strict_classes;
	uint8_t weights[RTE_SCHED_BE_QUEUES_PER_PIPE];
};
struct mp_sched_place {
	uint32_t pipe;
	uint8_t class_;
	uint8_t queue;
};
struct rte_sched_port *mp_sched_create(const char *name, const struct mp_sched_config *config);
/* Takes all packets: what finds no room in its queue is freed. Returns how many were queued. */
uint32_t mp_sched_enqueue(struct rte_sched_port *port, struct rte_mbuf **packets, const struct mp_sched_place *places,
	uint32_t n);

#endif
