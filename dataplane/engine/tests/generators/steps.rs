//! What happens to a node over time.

use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::answers::{Complaint, complaints};
use super::fragments::{long, pieces, storms, trains};
use super::packets::{Arrival, arrivals, forwardable, noise};
use super::tables::{Change, changes};

/// One step; before each, time passes.
#[derive(Clone, Debug)]
pub struct Step {
    /// Nanoseconds since the step before.
    pub pause: u64,
    pub event: Event,
}

#[derive(Clone, Debug)]
pub enum Event {
    /// Frames received together.
    Receive(Vec<Incoming>),
    /// The same frame this many times.
    Flood(Arrival, usize),
    /// Many frames, different ones.
    Storm(Vec<Arrival>),
    /// New tables.
    Push(Change),
    /// Checks of a service say which of its backends are out: one bit each.
    Health(Index, u8),
    /// The backend of a session is out of service, if anybody checks it, and its client begins anew.
    Anew(Index),
    /// Links that are down: one bit for each port.
    Links(u8),
    /// Nothing but time.
    Wait,
}

#[derive(Clone, Debug)]
pub enum Incoming {
    Fresh(Arrival),
    /// The answer to a frame that was sent not long ago: which, from which station, with which TCP flags.
    Answer {
        to: Index,
        station: usize,
        flags: u8,
    },
    /// An ICMP error about a frame that was sent not long ago.
    Complaint {
        about: Index,
        complaint: Complaint,
    },
    /// A frame received not long ago once more, with these TCP flags.
    Again {
        what: Index,
        flags: u8,
    },
}

/// Histories of up to `len` steps with up to `burst` packets at once.
pub fn histories(len: usize, burst: usize) -> BoxedStrategy<Vec<Step>> {
    let flags = || select(vec![0x10u8, 0x12, 0x11, 0x11, 0x11, 0x14, 0x02, 0x02, 0xff]);
    let incoming = || {
        prop_oneof![
            10 => arrivals().prop_map(Incoming::Fresh),
            1 => noise().prop_map(Incoming::Fresh),
            3 => pieces().prop_map(Incoming::Fresh),
            1 => long().prop_map(Incoming::Fresh),
            9 => (any::<Index>(), 0usize..3, flags())
                .prop_map(|(to, station, flags)| Incoming::Answer { to, station, flags }),
            6 => (any::<Index>(), complaints()).prop_map(|(about, complaint)| Incoming::Complaint { about, complaint }),
            5 => (any::<Index>(), flags()).prop_map(|(what, flags)| Incoming::Again { what, flags }),
        ]
    };
    let event = prop_oneof![
        30 => prop::collection::vec(incoming(), 1..=1).prop_map(Event::Receive),
        6 => prop::collection::vec(incoming(), 1..=burst).prop_map(Event::Receive),
        3 => trains().prop_map(|train| Event::Receive(train.into_iter().map(Incoming::Fresh).collect())),
        1 => storms().prop_map(Event::Storm),
        1 => (forwardable(), 1usize..140).prop_map(|(arrival, times)| Event::Flood(arrival, times)),
        3 => changes().prop_map(Event::Push),
        2 => (any::<Index>(), any::<u8>()).prop_map(|(service, out)| Event::Health(service, out)),
        2 => any::<Index>().prop_map(Event::Anew),
        1 => any::<u8>().prop_map(Event::Links),
        3 => Just(Event::Wait),
    ];
    let ms = 1_000_000u64;
    let pause = prop_oneof![
        10 => Just(0),
        10 => 0..20 * ms,
        4 => select(vec![999 * ms, 1000 * ms, 1001 * ms]),
        1 => select(vec![3000 * ms, 30_000 * ms, 30_001 * ms, 60_001 * ms]),
        1 => select(vec![240_001 * ms, 300_001 * ms, 7_440_000 * ms, 7_440_001 * ms]),
    ];
    prop::collection::vec((pause, event).prop_map(|(pause, event)| Step { pause, event }), 1..len).boxed()
}
