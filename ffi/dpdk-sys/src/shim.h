/* What Rust sees of DPDK: the headers whose functions it calls, the layout of an mbuf as numbers, and C functions for
 * everything that DPDK offers only as inline code, thread-local variable, bit field or macro. */
#ifndef MARCHPROXY_SHIM_H
#define MARCHPROXY_SHIM_H

#include <stddef.h>
#include <stdint.h>

#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_malloc.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_version.h>

/* Where the fields of an mbuf are in the headers we compile against. Rust reads and writes them at these offsets, so that
 * touching a packet costs no call; shim.c asserts their widths. */
enum {
	MP_MBUF_BUF_ADDR = offsetof(struct rte_mbuf, buf_addr),
	MP_MBUF_DATA_OFF = offsetof(struct rte_mbuf, data_off),
	MP_MBUF_NB_SEGS = offsetof(struct rte_mbuf, nb_segs),
	MP_MBUF_OL_FLAGS = offsetof(struct rte_mbuf, ol_flags),
	MP_MBUF_PKT_LEN = offsetof(struct rte_mbuf, pkt_len),
	MP_MBUF_DATA_LEN = offsetof(struct rte_mbuf, data_len),
	MP_MBUF_VLAN_TCI = offsetof(struct rte_mbuf, vlan_tci),
	MP_MBUF_VLAN_TCI_OUTER = offsetof(struct rte_mbuf, vlan_tci_outer),
	MP_MBUF_BUF_LEN = offsetof(struct rte_mbuf, buf_len),
	MP_MBUF_NEXT = offsetof(struct rte_mbuf, next),
};

/* Limits and flags that are macros. */
enum {
	MP_HEADROOM = RTE_PKTMBUF_HEADROOM,
	MP_MEMPOOL_CACHE_MAX = RTE_MEMPOOL_CACHE_MAX_SIZE,
	/* "MP_" goes before a pool's name. */
	MP_MEMPOOL_NAME_MAX = RTE_MEMPOOL_NAMESIZE - 1,
	MP_MAX_LCORE = RTE_MAX_LCORE,
	MP_MAX_PORTS = RTE_MAX_ETHPORTS,
	MP_SOCKET_ANY = SOCKET_ID_ANY,
	MP_RETA_GROUP = RTE_ETH_RETA_GROUP_SIZE,
	MP_DEV_INTR_LSC = RTE_ETH_DEV_INTR_LSC,
	MP_DEV_INTR_RMV = RTE_ETH_DEV_INTR_RMV,
};
static const uint64_t MP_RX_L4_MASK = RTE_MBUF_F_RX_L4_CKSUM_MASK;
static const uint64_t MP_RX_L4_GOOD = RTE_MBUF_F_RX_L4_CKSUM_GOOD;
static const uint64_t MP_RX_L4_NONE = RTE_MBUF_F_RX_L4_CKSUM_NONE;
static const uint64_t MP_RX_VLAN_STRIPPED = RTE_MBUF_F_RX_VLAN_STRIPPED;
static const uint64_t MP_RX_QINQ_STRIPPED = RTE_MBUF_F_RX_QINQ_STRIPPED;
static const uint64_t MP_RX_OFFLOAD_L4_CKSUM = RTE_ETH_RX_OFFLOAD_TCP_CKSUM | RTE_ETH_RX_OFFLOAD_UDP_CKSUM;
static const uint64_t MP_RSS_IP_AND_PORTS = RTE_ETH_RSS_IP | RTE_ETH_RSS_TCP | RTE_ETH_RSS_UDP | RTE_ETH_RSS_SCTP;

/* What the receive shim had to repair or give up; counted since the queue was made. */
struct mp_rx_repairs {
	uint64_t linearised;
	uint64_t chained_dropped;
	uint64_t tags_restored;
	uint64_t tags_dropped;
	uint64_t headroom_dropped;
};

/* Link state without bit fields. */
struct mp_link {
	uint32_t mbps;
	uint8_t up;
	uint8_t full_duplex;
	uint8_t autoneg;
};

/* Receives up to `n` packets, each in one segment, tags in the frame, first line being loaded. */
uint16_t mp_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **packets, uint16_t n, struct mp_rx_repairs *repairs);
/* The second half of mp_rx_burst: repairs `n` packets in place, closes gaps, returns how many are left. */
uint16_t mp_rx_repair(struct rte_mbuf **packets, uint16_t n, struct mp_rx_repairs *repairs);
/* Hands `n` packets to the driver; the first that were accepted are its own. */
uint16_t mp_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **packets, uint16_t n);
/* All `n` packets or none (-1). */
int mp_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **packets, unsigned int n);
void mp_free(struct rte_mbuf *packet);

int mp_errno(void);
/* The calling thread's lcore, UINT32_MAX for threads EAL does not know. */
uint32_t mp_lcore_id(void);
int mp_link_nowait(uint16_t port, struct mp_link *link);

/* Sends every line that DPDK logs to `sink`, also those before and during rte_eal_init. Returns 0 or an errno. */
int mp_log_to(void (*sink)(const char *text, size_t len));

#endif
