#include "tables.h"

#include <errno.h>
#include <string.h>

#include <rte_byteorder.h>
#include <rte_errno.h>
#include <rte_fib6.h>
#include <rte_hash_crc.h>
#include <rte_lcore.h>
#include <rte_lpm.h>
#include <rte_lpm6.h>
#include <rte_malloc.h>
#include <rte_mbuf.h>
#include <rte_meter.h>
#include <rte_version.h>

/* From 24.11 on DPDK has a type for IPv6 addresses. */
#if RTE_VERSION >= RTE_VERSION_NUM(24, 11, 0, 0)
#define ONE_IP6(bytes) ((const struct rte_ipv6_addr *)(bytes))
#define MANY_IP6(bytes) ((struct rte_ipv6_addr *)(uintptr_t)(bytes))
#else
#define ONE_IP6(bytes) (bytes)
#define MANY_IP6(bytes) ((uint8_t(*)[16])(uintptr_t)(bytes))
#endif

/* Some tables take no "any socket". */
static int
home_socket(void)
{
	int socket = (int)rte_socket_id();

	return socket >= 0 ? socket : rte_socket_id_by_idx(0);
}

struct rte_fib *
mp_fib_create(const char *name, uint32_t routes, uint32_t groups, uint32_t none)
{
	struct rte_fib_conf config = {
		.type = RTE_FIB_DIR24_8,
		.default_nh = none,
		.max_routes = (int)routes,
		.dir24_8 = { .nh_sz = RTE_FIB_DIR24_8_4B, .num_tbl8 = groups },
	};

	return rte_fib_create(name, home_socket(), &config);
}

struct rte_fib6 *
mp_fib6_create(const char *name, uint32_t routes, uint32_t groups, uint32_t none)
{
	struct rte_fib6_conf config = {
		.type = RTE_FIB6_TRIE,
		.default_nh = none,
		.max_routes = (int)routes,
		.trie = { .nh_sz = RTE_FIB6_TRIE_4B, .num_tbl8 = groups },
	};

	return rte_fib6_create(name, home_socket(), &config);
}

void
mp_fib6_free(struct rte_fib6 *fib)
{
	rte_fib6_free(fib);
}

int
mp_fib6_add(struct rte_fib6 *fib, const uint8_t *prefix, uint8_t len, uint32_t hop)
{
	return rte_fib6_add(fib, ONE_IP6(prefix), len, hop);
}

int
mp_fib6_lookup(struct rte_fib6 *fib, const uint8_t *addresses, uint64_t *hops, uint32_t n)
{
	return rte_fib6_lookup_bulk(fib, MANY_IP6(addresses), hops, (int)n);
}

struct rte_lpm *
mp_lpm_create(const char *name, uint32_t routes, uint32_t groups)
{
	struct rte_lpm_config config = { .max_rules = routes, .number_tbl8s = groups };

	return rte_lpm_create(name, home_socket(), &config);
}

void
mp_lpm_free(struct rte_lpm *lpm)
{
	rte_lpm_free(lpm);
}

int
mp_lpm_add(struct rte_lpm *lpm, uint32_t prefix, uint8_t len, uint32_t hop)
{
	return rte_lpm_add(lpm, prefix, len, hop);
}

void
mp_lpm_lookup(const struct rte_lpm *lpm, const uint32_t *addresses, uint32_t *hops, uint32_t n, uint32_t none)
{
	uint32_t i = 0;

	/* Four at a time is the fastest that the library offers. */
	for (; i + 4 <= n; i += 4) {
		xmm_t four;

		memcpy(&four, addresses + i, sizeof(four));
		rte_lpm_lookupx4(lpm, four, hops + i, none);
	}
	for (; i < n; i++) {
		if (rte_lpm_lookup(lpm, addresses[i], hops + i) != 0)
			hops[i] = none;
	}
}

struct rte_lpm6 *
mp_lpm6_create(const char *name, uint32_t routes, uint32_t groups)
{
	struct rte_lpm6_config config = { .max_rules = routes, .number_tbl8s = groups };

	return rte_lpm6_create(name, home_socket(), &config);
}

void
mp_lpm6_free(struct rte_lpm6 *lpm)
{
	rte_lpm6_free(lpm);
}

int
mp_lpm6_add(struct rte_lpm6 *lpm, const uint8_t *prefix, uint8_t len, uint32_t hop)
{
	return rte_lpm6_add(lpm, ONE_IP6(prefix), len, hop);
}

int
mp_lpm6_lookup(const struct rte_lpm6 *lpm, const uint8_t *addresses, int32_t *hops, uint32_t n)
{
	return rte_lpm6_lookup_bulk_func(lpm, MANY_IP6(addresses), hops, n);
}

struct rte_hash *
mp_hash_create(const char *name, uint32_t entries, uint32_t key_len)
{
	struct rte_hash_parameters parameters = {
		.name = name,
		.entries = entries,
		.key_len = key_len,
		.hash_func = rte_hash_crc,
		.socket_id = home_socket(),
	};

	return rte_hash_create(&parameters);
}

/* Protocol alone in the first byte, then words: DPDK reads the first byte in its set-up and four at a time from there on. */
#define ACL4_FIELDS 5
#define ACL6_FIELDS 11
RTE_ACL_RULE_DEF(acl4_rule, ACL4_FIELDS);
RTE_ACL_RULE_DEF(acl6_rule, ACL6_FIELDS);

struct rte_acl_ctx *
mp_acl_create(const char *name, int v6, uint32_t rules)
{
	const struct rte_acl_param parameters = {
		.name = name,
		.socket_id = home_socket(),
		.rule_size = v6 ? RTE_ACL_RULE_SZ(ACL6_FIELDS) : RTE_ACL_RULE_SZ(ACL4_FIELDS),
		.max_rule_num = rules,
	};

	return rte_acl_create(&parameters);
}

/* A prefix over `words` words of an address. */
static void
put_prefix(struct rte_acl_field *field, const uint32_t *address, uint8_t len, int words)
{
	for (int i = 0; i < words; i++) {
		int bits = (int)len - 32 * i;

		field[i].value.u32 = address[i];
		field[i].mask_range.u32 = bits < 0 ? 0 : bits > 32 ? 32 : (uint32_t)bits;
	}
}

int
mp_acl_add(struct rte_acl_ctx *acl, int v6, const struct mp_acl_rule *rule)
{
	const int words = v6 ? 4 : 1;
	struct acl6_rule full;
	struct rte_acl_field *field = full.field;

	memset(&full, 0, sizeof(full));
	full.data.category_mask = 1;
	full.data.priority = rule->priority;
	full.data.userdata = rule->answer;
	field[0].value.u8 = rule->protocol;
	field[0].mask_range.u8 = rule->protocol_mask;
	put_prefix(field + 1, rule->src, rule->src_len, words);
	put_prefix(field + 1 + words, rule->dst, rule->dst_len, words);
	field[1 + 2 * words].value.u16 = rule->sport[0];
	field[1 + 2 * words].mask_range.u16 = rule->sport[1];
	field[2 + 2 * words].value.u16 = rule->dport[0];
	field[2 + 2 * words].mask_range.u16 = rule->dport[1];
	/* The shorter rule is a prefix of the longer one; the table knows its own size. */
	return rte_acl_add_rules(acl, (const struct rte_acl_rule *)&full, 1);
}
_Static_assert(offsetof(struct acl4_rule, field) == offsetof(struct acl6_rule, field), "rules of both families start alike");

static void
define_field(struct rte_acl_config *config, uint8_t type, uint8_t size, uint8_t input, uint32_t offset)
{
	struct rte_acl_field_def *field = &config->defs[config->num_fields];

	*field = (struct rte_acl_field_def){
		.type = type,
		.size = size,
		.field_index = (uint8_t)config->num_fields,
		.input_index = input,
		.offset = offset,
	};
	config->num_fields++;
}

int
mp_acl_build(struct rte_acl_ctx *acl, int v6, size_t limit)
{
	const uint32_t words = v6 ? 8 : 2;
	struct rte_acl_config config = { .num_categories = 1, .max_size = limit };

	define_field(&config, RTE_ACL_FIELD_TYPE_BITMASK, 1, 0, 0);
	for (uint32_t i = 0; i < words; i++)
		define_field(&config, RTE_ACL_FIELD_TYPE_MASK, 4, (uint8_t)(i + 1), 4 + 4 * i);
	/* Both ports are one input word. */
	define_field(&config, RTE_ACL_FIELD_TYPE_RANGE, 2, (uint8_t)(words + 1), 4 + 4 * words);
	define_field(&config, RTE_ACL_FIELD_TYPE_RANGE, 2, (uint8_t)(words + 1), 6 + 4 * words);
	return rte_acl_build(acl, &config);
}
_Static_assert(sizeof(struct mp_acl_key) == 4 + 4 * 8 + 4, "the longest key");

#define ACL_BURST 64

int
mp_acl_classify(const struct rte_acl_ctx *acl, const struct mp_acl_key *keys, uint32_t *answers, uint32_t n)
{
	const uint8_t *data[ACL_BURST];

	for (uint32_t done = 0; done < n;) {
		uint32_t part = RTE_MIN(n - done, (uint32_t)ACL_BURST);
		int error;

		for (uint32_t i = 0; i < part; i++)
			data[i] = keys[done + i].bytes;
		error = rte_acl_classify(acl, data, answers + done, part, 1);
		if (error != 0)
			return error;
		done += part;
	}
	return 0;
}

struct mp_srtcm {
	struct rte_meter_srtcm meter;
	struct rte_meter_srtcm_profile profile;
} __rte_cache_aligned;

struct mp_trtcm {
	struct rte_meter_trtcm meter;
	struct rte_meter_trtcm_profile profile;
} __rte_cache_aligned;

struct mp_srtcm *
mp_srtcm_create(uint32_t n)
{
	return rte_calloc_socket(NULL, n, sizeof(struct mp_srtcm), RTE_CACHE_LINE_SIZE, home_socket());
}

struct mp_trtcm *
mp_trtcm_create(uint32_t n)
{
	return rte_calloc_socket(NULL, n, sizeof(struct mp_trtcm), RTE_CACHE_LINE_SIZE, home_socket());
}

void
mp_srtcm_free(struct mp_srtcm *meters)
{
	rte_free(meters);
}

void
mp_trtcm_free(struct mp_trtcm *meters)
{
	rte_free(meters);
}

int
mp_srtcm_set(struct mp_srtcm *meters, uint32_t at, uint64_t cir, uint64_t cbs, uint64_t ebs, uint64_t now)
{
	struct rte_meter_srtcm_params parameters = { .cir = cir, .cbs = cbs, .ebs = ebs };
	struct mp_srtcm *m = &meters[at];
	int error = rte_meter_srtcm_profile_config(&m->profile, &parameters);

	if (error == 0)
		error = rte_meter_srtcm_config(&m->meter, &m->profile);
	/* DPDK starts it by the machine's clock. */
	m->meter.time = now;
	return error;
}

int
mp_trtcm_set(struct mp_trtcm *meters, uint32_t at, uint64_t cir, uint64_t cbs, uint64_t pir, uint64_t pbs, uint64_t now)
{
	struct rte_meter_trtcm_params parameters = { .cir = cir, .pir = pir, .cbs = cbs, .pbs = pbs };
	struct mp_trtcm *m = &meters[at];
	int error = rte_meter_trtcm_profile_config(&m->profile, &parameters);

	if (error == 0)
		error = rte_meter_trtcm_config(&m->meter, &m->profile);
	m->meter.time_tc = now;
	m->meter.time_tp = now;
	return error;
}

struct mp_step
mp_srtcm_step(const struct mp_srtcm *meters, uint32_t at)
{
	const struct rte_meter_srtcm_profile *p = &meters[at].profile;

	return (struct mp_step){ .cycles = p->cir_period, .bytes = p->cir_bytes_per_period };
}

struct mp_step
mp_trtcm_committed(const struct mp_trtcm *meters, uint32_t at)
{
	const struct rte_meter_trtcm_profile *p = &meters[at].profile;

	return (struct mp_step){ .cycles = p->cir_period, .bytes = p->cir_bytes_per_period };
}

struct mp_step
mp_trtcm_peak(const struct mp_trtcm *meters, uint32_t at)
{
	const struct rte_meter_trtcm_profile *p = &meters[at].profile;

	return (struct mp_step){ .cycles = p->pir_period, .bytes = p->pir_bytes_per_period };
}

void
mp_srtcm_burst(struct mp_srtcm *meters, const uint32_t *which, const uint16_t *lens, uint8_t *colours, uint32_t n,
	uint64_t now)
{
	for (uint32_t i = 0; i < n; i++) {
		struct mp_srtcm *m = &meters[which[i]];

		colours[i] = (uint8_t)rte_meter_srtcm_color_blind_check(&m->meter, &m->profile, now, lens[i]);
	}
}

void
mp_trtcm_burst(struct mp_trtcm *meters, const uint32_t *which, const uint16_t *lens, uint8_t *colours, uint32_t n,
	uint64_t now)
{
	for (uint32_t i = 0; i < n; i++) {
		struct mp_trtcm *m = &meters[which[i]];

		colours[i] = (uint8_t)rte_meter_trtcm_color_blind_check(&m->meter, &m->profile, now, lens[i]);
	}
}

/* Milliseconds over which DPDK enforces a class's rate; no class has less than the whole rate here. */
#define SCHED_PERIOD_MS 10
/* Bytes of burst of the token buckets over pipes and subport. */
#define SCHED_BURST 1000000

/* The subport, its pipes and their one profile. */
static int
sched_fill(struct rte_sched_port *port, const struct mp_sched_config *config)
{
	struct rte_sched_pipe_params pipe = {
		.tb_rate = config->bytes_per_second,
		.tb_size = SCHED_BURST,
		.tc_period = SCHED_PERIOD_MS,
		.tc_ov_weight = 1,
	};
	struct rte_sched_subport_params subport = {
		.n_pipes_per_subport_enabled = config->pipes,
		.pipe_profiles = &pipe,
		.n_pipe_profiles = 1,
		.n_max_pipe_profiles = 1,
	};
	int error;

	for (uint32_t class = 0; class < RTE_SCHED_TRAFFIC_CLASSES_PER_PIPE; class++) {
		/* A class without queue must not have a rate. */
		if (class < config->strict_classes || class == RTE_SCHED_TRAFFIC_CLASS_BE) {
			subport.qsize[class] = config->queue_len;
			pipe.tc_rate[class] = config->bytes_per_second;
		}
	}
	memcpy(pipe.wrr_weights, config->weights, sizeof(pipe.wrr_weights));
	error = rte_sched_subport_config(port, 0, &subport, 0);
	for (uint32_t i = 0; error == 0 && i < config->pipes; i++)
		error = rte_sched_pipe_config(port, 0, i, 0);
	return error;
}

struct rte_sched_port *
mp_sched_create(const char *name, const struct mp_sched_config *config)
{
	struct rte_sched_subport_profile_params profile = {
		.tb_rate = config->bytes_per_second,
		.tb_size = SCHED_BURST,
		.tc_period = SCHED_PERIOD_MS,
	};
	struct rte_sched_port_params parameters = {
		.name = name,
		.socket = home_socket(),
		.rate = config->bytes_per_second,
		.mtu = config->mtu,
		.frame_overhead = config->overhead,
		.n_subports_per_port = 1,
		.subport_profiles = &profile,
		.n_subport_profiles = 1,
		.n_max_subport_profiles = 1,
		.n_pipes_per_subport = config->pipes,
	};
	struct rte_sched_port *port;
	int error;

	for (int class = 0; class < RTE_SCHED_TRAFFIC_CLASSES_PER_PIPE; class++)
		profile.tc_rate[class] = config->bytes_per_second;
	rte_errno = 0;
	port = rte_sched_port_config(&parameters);
	if (port == NULL)
		return NULL;
	error = sched_fill(port, config);
	if (error != 0) {
		rte_sched_port_free(port);
		rte_errno = -error;
		return NULL;
	}
	return port;
}

uint32_t
mp_sched_enqueue(struct rte_sched_port *port, struct rte_mbuf **packets, const struct mp_sched_place *places, uint32_t n)
{
	int queued;

	for (uint32_t i = 0; i < n; i++) {
		rte_prefetch0(packets[i]);
		rte_sched_port_pkt_write(port, packets[i], 0, places[i].pipe, places[i].class_, places[i].queue,
			RTE_COLOR_GREEN);
	}
	queued = rte_sched_port_enqueue(port, packets, n);
	return queued < 0 ? 0 : (uint32_t)queued;
}
