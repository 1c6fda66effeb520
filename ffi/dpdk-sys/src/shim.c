#define _GNU_SOURCE /* fopencookie */
#include "shim.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <rte_branch_prediction.h>
#include <rte_byteorder.h>
#include <rte_ether.h>
#include <rte_prefetch.h>

/* Rust reads these fields as pointer, u16, u16, u64, u32, u16, u16, u16, u16, pointer. */
#define FIELD_IS(field, bytes) \
	_Static_assert(sizeof(((struct rte_mbuf *)0)->field) == (bytes), "rte_mbuf." #field " is not " #bytes " bytes wide")
FIELD_IS(buf_addr, sizeof(void *));
FIELD_IS(data_off, 2);
FIELD_IS(nb_segs, 2);
FIELD_IS(ol_flags, 8);
FIELD_IS(pkt_len, 4);
FIELD_IS(data_len, 2);
FIELD_IS(vlan_tci, 2);
FIELD_IS(vlan_tci_outer, 2);
FIELD_IS(buf_len, 2);
FIELD_IS(next, sizeof(void *));
/* The offsets Rust was given are the ones this file was compiled with. */
#define OFFSET_IS(name, field) _Static_assert(name == offsetof(struct rte_mbuf, field), #name)
OFFSET_IS(MP_MBUF_BUF_ADDR, buf_addr);
OFFSET_IS(MP_MBUF_DATA_OFF, data_off);
OFFSET_IS(MP_MBUF_OL_FLAGS, ol_flags);
OFFSET_IS(MP_MBUF_PKT_LEN, pkt_len);
OFFSET_IS(MP_MBUF_DATA_LEN, data_len);
OFFSET_IS(MP_MBUF_BUF_LEN, buf_len);
/* The engine is promised 128 bytes before every frame. */
_Static_assert(RTE_PKTMBUF_HEADROOM >= 128, "this libdpdk was built with less than 128 bytes of headroom");
/* What a received frame is judged by lies on the line that the driver has just written. */
_Static_assert(offsetof(struct rte_mbuf, pool) < RTE_CACHE_LINE_MIN_SIZE, "receive fields left the first cache line");

#define TAG_LEN 4
#define MACS_LEN 12
#define STRIPPED (RTE_MBUF_F_RX_VLAN_STRIPPED | RTE_MBUF_F_RX_QINQ_STRIPPED)

/* Puts one tag behind the MAC addresses by moving the rest of the frame into the tailroom: the headroom belongs to the
 * engine. */
static int
insert_tag(struct rte_mbuf *m, uint16_t ethertype, uint16_t tci)
{
	uint8_t *frame = rte_pktmbuf_mtod(m, uint8_t *);
	uint16_t len = m->data_len;
	uint16_t tag[2] = { rte_cpu_to_be_16(ethertype), rte_cpu_to_be_16(tci) };

	if (len < MACS_LEN || rte_pktmbuf_append(m, TAG_LEN) == NULL)
		return -1;
	memmove(frame + MACS_LEN + TAG_LEN, frame + MACS_LEN, len - MACS_LEN);
	memcpy(frame + MACS_LEN, tag, TAG_LEN);
	return 0;
}

static int
restore_tags(struct rte_mbuf *m)
{
	uint64_t flags = m->ol_flags;

	m->ol_flags &= ~STRIPPED;
	if (insert_tag(m, RTE_ETHER_TYPE_VLAN, m->vlan_tci) != 0)
		return -1;
	if ((flags & RTE_MBUF_F_RX_QINQ_STRIPPED) && insert_tag(m, RTE_ETHER_TYPE_QINQ, m->vlan_tci_outer) != 0)
		return -1;
	return 0;
}

/* Gives a frame whose driver left less than the promised headroom its place back, if the buffer is long enough. */
static int
restore_headroom(struct rte_mbuf *m)
{
	uint8_t *frame = rte_pktmbuf_mtod(m, uint8_t *);

	if ((uint32_t)RTE_PKTMBUF_HEADROOM + m->data_len > m->buf_len)
		return -1;
	m->data_off = RTE_PKTMBUF_HEADROOM;
	memmove(rte_pktmbuf_mtod(m, uint8_t *), frame, m->data_len);
	return 0;
}

static __rte_noinline int
repair(struct rte_mbuf *m, struct mp_rx_repairs *repairs)
{
	if (m->nb_segs != 1) {
		if (rte_pktmbuf_linearize(m) != 0) {
			repairs->chained_dropped++;
			return -1;
		}
		repairs->linearised++;
	}
	if (m->data_off < RTE_PKTMBUF_HEADROOM && restore_headroom(m) != 0) {
		repairs->headroom_dropped++;
		return -1;
	}
	if (m->ol_flags & STRIPPED) {
		if (restore_tags(m) != 0) {
			repairs->tags_dropped++;
			return -1;
		}
		repairs->tags_restored++;
	}
	return 0;
}

uint16_t
mp_rx_repair(struct rte_mbuf **packets, uint16_t n, struct mp_rx_repairs *repairs)
{
	uint16_t kept = 0;

	for (uint16_t i = 0; i < n; i++) {
		struct rte_mbuf *m = packets[i];

		if (unlikely(m->nb_segs != 1 || (m->ol_flags & STRIPPED) || m->data_off < RTE_PKTMBUF_HEADROOM) &&
		    repair(m, repairs) != 0) {
			rte_pktmbuf_free(m);
			continue;
		}
		rte_prefetch0(rte_pktmbuf_mtod(m, void *));
		packets[kept++] = m;
	}
	return kept;
}

uint16_t
mp_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **packets, uint16_t n, struct mp_rx_repairs *repairs)
{
	return mp_rx_repair(packets, rte_eth_rx_burst(port, queue, packets, n), repairs);
}

uint16_t
mp_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **packets, uint16_t n)
{
	return rte_eth_tx_burst(port, queue, packets, n);
}

int
mp_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **packets, unsigned int n)
{
	return rte_pktmbuf_alloc_bulk(pool, packets, n) == 0 ? 0 : -1;
}

void
mp_free(struct rte_mbuf *packet)
{
	rte_pktmbuf_free(packet);
}

int
mp_errno(void)
{
	return rte_errno;
}

uint32_t
mp_lcore_id(void)
{
	return rte_lcore_id();
}

int
mp_link_nowait(uint16_t port, struct mp_link *out)
{
	struct rte_eth_link link;
	int error;

	memset(&link, 0, sizeof(link));
	error = rte_eth_link_get_nowait(port, &link);
	out->mbps = link.link_speed;
	out->up = link.link_status;
	out->full_duplex = link.link_duplex;
	out->autoneg = link.link_autoneg;
	return error;
}

static void (*log_sink)(const char *text, size_t len);

static ssize_t
log_write(void *cookie, const char *text, size_t len)
{
	(void)cookie;
	log_sink(text, len);
	return (ssize_t)len;
}

int
mp_log_to(void (*sink)(const char *text, size_t len))
{
	static FILE *stream;
	const cookie_io_functions_t functions = { .write = log_write };

	log_sink = sink;
	if (stream == NULL) {
		stream = fopencookie(NULL, "w", functions);
		if (stream == NULL)
			return errno;
		/* rte_vlog flushes after each message: whole messages arrive. */
	}
	return rte_openlog_stream(stream) == 0 ? 0 : EIO;
}
