//! Traffic through a node, and whether each packet was judged by one generation: what `document` sends out of `a` it marks AF11, out of `b` AF22.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use marchproxy_engine::io::PacketBuf as _;
use marchproxy_engine::memory::{MemoryBuf, Wire};
use marchproxy_engine::packet::Packet;

use super::world::{OURS, World};

const THEIRS: [u8; 6] = [2, 0, 0, 0, 0, 2];
const AF11: u8 = 10;
const AF22: u8 = 20;

/// Sends until it is dropped.
pub struct Traffic {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<[u64; 2]>>,
}

impl Traffic {
    pub fn start(world: Arc<World>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = stop.clone();
        let thread = std::thread::spawn(move || run(&world, &stopping));
        Self { stop, thread: Some(thread) }
    }

    /// Packets that came out of `a` and of `b`.
    pub fn end(mut self) -> [u64; 2] {
        self.stop.store(true, Ordering::Release);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

fn run(world: &World, stop: &AtomicBool) -> [u64; 2] {
    let (mut seen, mut round) = ([0; 2], 0u32);
    while !stop.load(Ordering::Acquire) {
        let wire = |port: &str| world.wires.lock().unwrap().get(port).cloned();
        // Neighbours are forgotten with a node's process, so they introduce themselves again and again.
        if round.is_multiple_of(32) {
            for (port, net) in [("a", 1), ("b", 2)] {
                let hello = Packet::eth(THEIRS, [255; 6]).arp_request([198, 18, net, 2], [198, 18, net, 1]).build();
                put(wire(port), &hello);
            }
        }
        for n in 0..8u8 {
            let to = [192, 0, 2, round.to_le_bytes()[0] ^ n];
            put(
                wire("in"),
                &Packet::eth(THEIRS, OURS).ipv4([198, 18, 3, 9], to).udp(1000 + u16::from(n), 2000).build(),
            );
        }
        for (at, port, mark) in [(0, "a", AF11), (1, "b", AF22)] {
            for packet in wire(port).iter().flat_map(Wire::take) {
                let frame = packet.data();
                // From the client: everything else is the node's own.
                if frame[12..14] == [8, 0] && frame[26..30] == [198, 18, 3, 9] {
                    assert_eq!(frame[15] >> 2, mark, "a packet that left by {port} was judged by a mixture");
                    seen[at] += 1;
                }
            }
        }
        round += 1;
        std::thread::sleep(Duration::from_millis(2));
    }
    seen
}

/// A node that is down takes nothing, and gets no heap of old packets when it comes back.
fn put(wire: Option<Wire>, frame: &[u8]) {
    if let Some(wire) = wire.filter(|wire| wire.waiting() < 256) {
        wire.put(MemoryBuf::new(frame));
    }
}
