//! The receive shim's repairs, on packets put together by hand: no virtual device makes them all.
// Helpers of a test fail as the test does.
#![allow(clippy::unwrap_used)]

use std::ffi::CString;
use std::ptr::null_mut;

use marchproxy_dpdk_sys as sys;

const ROOM: usize = 256;

#[test]
fn received_packets_are_given_the_promised_form() {
    start();
    // SAFETY: EAL runs; the name is zero-terminated; the numbers are in range.
    let pool = unsafe { sys::rte_pktmbuf_pool_create(c"shim".as_ptr(), 7, 0, 0, 128 + ROOM as u16, -1) };
    assert!(!pool.is_null());

    plain_packets_are_left_alone(pool);
    chains_become_one_segment(pool);
    tags_return_behind_the_addresses(pool);
    headroom_returns(pool);
    what_cannot_be_repaired_is_freed_and_the_gap_closed(pool);
}

fn plain_packets_are_left_alone(pool: *mut sys::rte_mempool) {
    let packet = Packet::new(pool, &frame(100));
    let (kept, repairs) = repair(&mut [packet.0]);
    assert_eq!((kept, counts(&repairs)), (1, [0; 5]));
    assert_eq!((packet.bytes(), packet.field::<u16>(sys::MP_MBUF_DATA_OFF)), (frame(100), 128));
}

fn chains_become_one_segment(pool: *mut sys::rte_mempool) {
    let packet = Packet::new(pool, &frame(100));
    packet.chain(Packet::new(pool, &[7; 50]));
    let (kept, repairs) = repair(&mut [packet.0]);
    assert_eq!((kept, counts(&repairs)), (1, [1, 0, 0, 0, 0]));
    assert_eq!(packet.field::<u16>(sys::MP_MBUF_NB_SEGS), 1);
    assert_eq!(packet.bytes(), [frame(100), vec![7; 50]].concat());
    assert_eq!(packet.field::<u32>(sys::MP_MBUF_PKT_LEN), 150);
}

fn tags_return_behind_the_addresses(pool: *mut sys::rte_mempool) {
    let one = Packet::new(pool, &frame(64));
    one.set(sys::MP_MBUF_OL_FLAGS, sys::MP_RX_VLAN_STRIPPED);
    one.set(sys::MP_MBUF_VLAN_TCI, 0x2064_u16);
    let two = Packet::new(pool, &frame(64));
    two.set(sys::MP_MBUF_OL_FLAGS, sys::MP_RX_VLAN_STRIPPED | sys::MP_RX_QINQ_STRIPPED);
    two.set(sys::MP_MBUF_VLAN_TCI, 5_u16);
    two.set(sys::MP_MBUF_VLAN_TCI_OUTER, 9_u16);
    let (kept, repairs) = repair(&mut [one.0, two.0]);
    assert_eq!((kept, counts(&repairs)), (2, [0, 0, 2, 0, 0]));
    let tagged = |tags: &[u8]| [&frame(64)[..12], tags, &frame(64)[12..]].concat();
    assert_eq!(one.bytes(), tagged(&[0x81, 0x00, 0x20, 0x64]));
    assert_eq!(two.bytes(), tagged(&[0x88, 0xa8, 0, 9, 0x81, 0x00, 0, 5]));
    for packet in [&one, &two] {
        assert_eq!(packet.field::<u16>(sys::MP_MBUF_DATA_OFF), 128);
        assert_eq!(packet.field::<u64>(sys::MP_MBUF_OL_FLAGS), 0);
    }
}

fn headroom_returns(pool: *mut sys::rte_mempool) {
    let packet = Packet::new(pool, &[[0; 4].as_slice(), &frame(200)].concat());
    // As a driver leaves it that puts a tag back in front: the frame is 4 bytes further forward.
    packet.set(sys::MP_MBUF_DATA_OFF, 124_u16);
    let expected = packet.bytes();
    let (kept, repairs) = repair(&mut [packet.0]);
    assert_eq!((kept, counts(&repairs)), (1, [0; 5]));
    assert_eq!((packet.bytes(), packet.field::<u16>(sys::MP_MBUF_DATA_OFF)), (expected, 128));
}

fn what_cannot_be_repaired_is_freed_and_the_gap_closed(pool: *mut sys::rte_mempool) {
    let first = Packet::new(pool, &frame(60));
    let chained = Packet::new(pool, &frame(ROOM));
    chained.chain(Packet::new(pool, &[1]));
    let tagged = Packet::new(pool, &frame(ROOM - 3));
    tagged.set(sys::MP_MBUF_OL_FLAGS, sys::MP_RX_VLAN_STRIPPED);
    let headless = Packet::new(pool, &frame(ROOM));
    headless.set(sys::MP_MBUF_DATA_OFF, 100_u16);
    headless.set_len(ROOM as u16 + 1);
    let last = Packet::new(pool, &frame(61));
    let mut packets = [first.0, chained.0, tagged.0, headless.0, last.0];
    let (kept, repairs) = repair(&mut packets);
    assert_eq!((kept, counts(&repairs)), (2, [0, 1, 0, 1, 1]));
    assert_eq!(packets[..2], [first.0, last.0]);
    std::mem::forget((chained, tagged, headless));
    drop((first, last));
    // SAFETY: the pool is alive.
    assert_eq!(unsafe { sys::rte_mempool_avail_count(pool) }, 7);
}

/// An mbuf of ours, freed on drop.
struct Packet(*mut sys::rte_mbuf);

impl Packet {
    fn new(pool: *mut sys::rte_mempool, content: &[u8]) -> Self {
        let mut raw = null_mut();
        // SAFETY: the pool is alive and `raw` has room for one pointer.
        assert_eq!(unsafe { sys::mp_alloc_bulk(pool, &raw mut raw, 1) }, 0);
        let packet = Self(raw);
        packet.set_len(content.len() as u16);
        // SAFETY: the new segment holds 256 bytes behind its headroom, and tests write no more.
        unsafe { packet.start().copy_from(content.as_ptr(), content.len()) };
        packet
    }

    fn address<T>(&self, offset: u32) -> *mut T {
        self.0.wrapping_byte_add(offset as usize).cast()
    }

    fn field<T: Copy>(&self, offset: impl TryInto<u32>) -> T {
        // SAFETY: callers name a field of a live mbuf and its type, as the shim asserts them.
        unsafe { self.address::<T>(offset.try_into().ok().unwrap()).read() }
    }

    fn set<T>(&self, offset: impl TryInto<u32>, value: T) {
        // SAFETY: as in field; nobody else uses the mbuf.
        unsafe { self.address::<T>(offset.try_into().ok().unwrap()).write(value) };
    }

    fn set_len(&self, len: u16) {
        self.set(sys::MP_MBUF_DATA_LEN, len);
        self.set(sys::MP_MBUF_PKT_LEN, u32::from(len));
    }

    fn start(&self) -> *mut u8 {
        self.field::<*mut u8>(sys::MP_MBUF_BUF_ADDR).wrapping_add(self.field::<u16>(sys::MP_MBUF_DATA_OFF) as usize)
    }

    fn bytes(&self) -> Vec<u8> {
        let len = self.field::<u16>(sys::MP_MBUF_DATA_LEN) as usize;
        // SAFETY: the frame lies in the mbuf's buffer, which is alive and not written meanwhile.
        unsafe { std::slice::from_raw_parts(self.start(), len) }.to_vec()
    }

    /// Makes `tail` the second segment.
    fn chain(&self, tail: Self) {
        let len = self.field::<u32>(sys::MP_MBUF_PKT_LEN) + tail.field::<u32>(sys::MP_MBUF_PKT_LEN);
        self.set(sys::MP_MBUF_NEXT, tail.0);
        self.set(sys::MP_MBUF_NB_SEGS, 2_u16);
        self.set(sys::MP_MBUF_PKT_LEN, len);
        std::mem::forget(tail);
    }
}

impl Drop for Packet {
    fn drop(&mut self) {
        // SAFETY: the mbuf is ours and not used again.
        unsafe { sys::mp_free(self.0) };
    }
}

fn repair(packets: &mut [*mut sys::rte_mbuf]) -> (u16, sys::mp_rx_repairs) {
    let mut repairs = sys::mp_rx_repairs::default();
    // SAFETY: `packets` holds as many valid mbufs of ours as it is long.
    let kept = unsafe { sys::mp_rx_repair(packets.as_mut_ptr(), packets.len() as u16, &raw mut repairs) };
    (kept, repairs)
}

fn counts(repairs: &sys::mp_rx_repairs) -> [u64; 5] {
    [repairs.linearised, repairs.chained_dropped, repairs.tags_restored, repairs.tags_dropped, repairs.headroom_dropped]
}

fn frame(len: usize) -> Vec<u8> {
    (0..len).map(|at| at as u8).collect()
}

fn start() {
    let arguments = [
        "shim",
        "--no-huge",
        "--no-pci",
        "--no-shconf",
        "--no-telemetry",
        "-m64",
        "--log-level=error",
        "--file-prefix=marchproxy-test-shim",
    ];
    let mut argv: Vec<_> = arguments.iter().map(|text| CString::new(*text).unwrap().into_raw()).collect();
    argv.push(null_mut());
    let argv = argv.leak();
    // SAFETY: `argv` holds zero-terminated strings and a null, all alive for ever; nothing else starts EAL in this process.
    assert!(unsafe { sys::rte_eal_init(arguments.len() as i32, argv.as_mut_ptr()) } >= 0);
}
