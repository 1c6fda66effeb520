//! Neighbours: who is asked for, who answered, and the packets that wait meanwhile.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::flow::is_v4;
use crate::io::{Mac, PacketBuf};
use crate::ledger::{Backend, Punted};
use crate::ports::PortSlot;
use crate::reason::DropReason;
use crate::received::Received;
use crate::slow::{Output, arp, nd};
use crate::snapshot::{Interface, Snapshot};
use crate::stage::finish;
use crate::table::neighbours::{MAX_NEIGHBOURS, NeighbourKey, NeighbourTable};
use crate::wire::put;

const SECOND: u64 = 1_000_000_000;
/// Between two requests (RFC 4861 RETRANS_TIMER).
const RETRY: u64 = SECOND;
/// Requests before giving up (RFC 4861 MAX_MULTICAST_SOLICIT, MAX_UNICAST_SOLICIT).
const REQUESTS: u8 = 3;
/// Time after which a known neighbour is asked again (RFC 4861 REACHABLE_TIME).
const REACHABLE: u64 = 30 * SECOND;
/// Packets that may wait for one neighbour.
const HOLD_PER_NEIGHBOUR: usize = 64;
/// Packets that may wait in all.
const HOLD_TOTAL: usize = 1024;

/// Where a neighbour stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeighbourState {
    /// Asked, not answered.
    Incomplete,
    /// Known.
    Reachable,
    /// Known, being asked again.
    Probe,
}

impl NeighbourState {
    /// The name shown to people.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Incomplete => "incomplete",
            Self::Reachable => "reachable",
            Self::Probe => "probe",
        }
    }
}

/// A neighbour as shown to people and tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighbourInfo {
    /// Where and who.
    pub key: NeighbourKey,
    /// How it stands.
    pub state: NeighbourState,
    /// Its MAC address, if known.
    pub mac: Option<Mac>,
    /// Time of creation or last confirmation, in nanoseconds.
    pub since: u64,
    /// Packets waiting.
    pub held: usize,
}

struct Neighbour<B> {
    key: NeighbourKey,
    mac: Option<Mac>,
    /// Requests sent since the last answer.
    requests: u8,
    due: u64,
    since: u64,
    worker: usize,
    held: VecDeque<Held<B>>,
}

/// A packet that waits.
pub(super) struct Held<B> {
    /// Finished but for the destination MAC address.
    pub packet: B,
    /// What it was like before; none for packets made here.
    pub received: Option<Received>,
}

impl<B> Neighbour<B> {
    fn state(&self) -> NeighbourState {
        match (self.mac, self.requests) {
            (None, _) => NeighbourState::Incomplete,
            (Some(_), 0) => NeighbourState::Reachable,
            (Some(_), _) => NeighbourState::Probe,
        }
    }
}

pub(super) struct Neighbours<B> {
    table: NeighbourTable,
    ids: HashMap<NeighbourKey, u64>,
    /// By order of creation.
    entries: BTreeMap<u64, Neighbour<B>>,
    next_id: u64,
    held: usize,
    /// No timer runs out before this.
    next_due: u64,
}

impl<B: PacketBuf> Neighbours<B> {
    pub(super) fn new(table: NeighbourTable) -> Self {
        Self { table, ids: HashMap::new(), entries: BTreeMap::new(), next_id: 0, held: 0, next_due: u64::MAX }
    }

    pub(super) fn held(&self) -> usize {
        self.held
    }

    pub(super) fn list(&self) -> impl Iterator<Item = NeighbourInfo> + '_ {
        self.entries.values().map(|n| NeighbourInfo {
            key: n.key,
            state: n.state(),
            mac: n.mac,
            since: n.since,
            held: n.held.len(),
        })
    }

    /// Whether an advertisement may set this MAC address (RFC 4861 s7.2.5): there is an entry, and the message overrides, or nothing
    /// else is known.
    pub(super) fn accepts(&self, key: &NeighbourKey, mac: Mac, overrides: bool) -> bool {
        let entry = self.ids.get(key).and_then(|id| self.entries.get(id));
        entry.is_some_and(|entry| overrides || entry.mac.is_none_or(|known| known == mac))
    }

    /// Sends a packet of our own: L2 header for the egress interface, then out or into the hold.
    #[expect(clippy::too_many_arguments, reason = "one packet, its way, and the three things it may touch")]
    pub(super) fn send<K: Backend<Buf = B>>(
        &mut self,
        now: u64,
        worker: usize,
        mut packet: B,
        out: &Interface,
        next_hop: u128,
        v6: bool,
        snapshot: &Snapshot,
        output: &mut Output<K>,
    ) {
        let source = output.facts.mac_word(out.port);
        if finish::make_room(&mut packet, 0, out.vlan).is_none() {
            return output.drop(packet, DropReason::NoHeadroom);
        }
        finish::layer2(packet.data_mut(), v6, out.vlan, 0, source);
        let held = Held { packet, received: None };
        self.resolve(now, worker, held, out.neighbour(next_hop), snapshot, output);
    }

    /// A finished packet lacks its destination MAC.
    pub(super) fn hold<K: Backend<Buf = B>>(
        &mut self,
        now: u64,
        worker: usize,
        punted: Punted<B>,
        snapshot: &Snapshot,
        output: &mut Output<K>,
    ) {
        let key = NeighbourKey { port: punted.port, vlan: punted.vlan, address: punted.next_hop };
        let held = Held { packet: punted.packet, received: punted.received };
        self.resolve(now, worker, held, key, snapshot, output);
    }

    /// Sends a finished packet to a neighbour, or keeps it until that is known.
    pub(super) fn resolve<K: Backend<Buf = B>>(
        &mut self,
        now: u64,
        worker: usize,
        mut held: Held<B>,
        key: NeighbourKey,
        snapshot: &Snapshot,
        output: &mut Output<K>,
    ) {
        if snapshot.interface_at(key.port, key.vlan).is_none() {
            return output.drop(held.packet, DropReason::NeighbourUnreachable);
        }
        match self.ids.get(&key).and_then(|id| self.entries.get_mut(id)) {
            Some(Neighbour { mac: Some(mac), .. }) => {
                put(held.packet.data_mut(), 0, mac);
                output.send(worker, held.packet, key.port);
            }
            Some(entry) => {
                if entry.held.len() >= HOLD_PER_NEIGHBOUR || self.held >= HOLD_TOTAL {
                    return output.drop(held.packet, DropReason::NeighbourHoldFull);
                }
                entry.held.push_back(held);
                self.held += 1;
            }
            None => {
                if self.entries.len() >= MAX_NEIGHBOURS || self.held >= HOLD_TOTAL {
                    return output.drop(held.packet, DropReason::NeighbourHoldFull);
                }
                let held = VecDeque::from([held]);
                self.held += 1;
                self.insert(Neighbour { key, mac: None, requests: 1, due: now + RETRY, since: now, worker, held });
                request(worker, &key, None, snapshot, output);
            }
        }
    }

    /// A neighbour told us its address: makes or updates the entry.
    pub(super) fn learn<K: Backend<Buf = B>>(
        &mut self,
        now: u64,
        worker: usize,
        key: NeighbourKey,
        mac: Mac,
        output: &mut Output<K>,
    ) {
        if self.update(now, key, mac, output) || self.entries.len() >= MAX_NEIGHBOURS {
            return;
        }
        self.table.set(&key, mac);
        let due = now + REACHABLE;
        self.insert(Neighbour { key, mac: Some(mac), requests: 0, due, since: now, worker, held: VecDeque::new() });
    }

    /// Updates an entry if there is one, and sends what waited for it.
    pub(super) fn update<K: Backend<Buf = B>>(
        &mut self,
        now: u64,
        key: NeighbourKey,
        mac: Mac,
        output: &mut Output<K>,
    ) -> bool {
        let Some(entry) = self.ids.get(&key).and_then(|id| self.entries.get_mut(id)) else { return false };
        entry.mac = Some(mac);
        entry.requests = 0;
        entry.since = now;
        entry.due = now + REACHABLE;
        self.next_due = self.next_due.min(entry.due);
        self.table.set(&key, mac);
        self.held -= entry.held.len();
        let worker = entry.worker;
        for Held { mut packet, .. } in entry.held.drain(..) {
            put(packet.data_mut(), 0, &mac);
            output.send(worker, packet, key.port);
        }
        true
    }

    /// Requests and probes that are due. Returns what waited in vain for neighbours whose time is up, and for which worker.
    pub(super) fn timers<K: Backend<Buf = B>>(
        &mut self,
        now: u64,
        snapshot: &Snapshot,
        output: &mut Output<K>,
    ) -> Vec<(usize, Held<B>)> {
        if now < self.next_due {
            return Vec::new();
        }
        let mut gone = Vec::new();
        for (&id, entry) in &mut self.entries {
            if now < entry.due {
                continue;
            }
            if entry.requests == REQUESTS {
                gone.push(id);
                continue;
            }
            entry.requests += 1;
            entry.due = now + RETRY;
            request(entry.worker, &entry.key, entry.mac, snapshot, output);
        }
        let gone: Vec<_> = gone.into_iter().filter_map(|id| self.take(id)).collect();
        self.next_due = self.entries.values().map(|n| n.due).min().unwrap_or(u64::MAX);
        gone.into_iter().flat_map(|n| n.held.into_iter().map(move |held| (n.worker, held))).collect()
    }

    /// Forgets neighbours on interfaces that are no more.
    pub(super) fn retain_interfaces<K: Backend<Buf = B>>(&mut self, snapshot: &Snapshot, output: &mut Output<K>) {
        let gone = |n: &Neighbour<B>| snapshot.interface_at(n.key.port, n.key.vlan).is_none();
        let ids: Vec<u64> = self.entries.iter().filter(|(_, n)| gone(n)).map(|(&id, _)| id).collect();
        for id in ids {
            self.remove(id, output, DropReason::NeighbourUnreachable);
        }
    }

    pub(super) fn release<K: Backend<Buf = B>>(&mut self, output: &mut Output<K>, reason: DropReason) {
        for id in self.entries.keys().copied().collect::<Vec<_>>() {
            self.remove(id, output, reason);
        }
    }

    fn insert(&mut self, entry: Neighbour<B>) {
        self.next_due = self.next_due.min(entry.due);
        self.ids.insert(entry.key, self.next_id);
        self.entries.insert(self.next_id, entry);
        self.next_id += 1;
    }

    fn remove<K: Backend<Buf = B>>(&mut self, id: u64, output: &mut Output<K>, reason: DropReason) {
        for held in self.take(id).into_iter().flat_map(|entry| entry.held) {
            output.drop(held.packet, reason);
        }
    }

    fn take(&mut self, id: u64) -> Option<Neighbour<B>> {
        let entry = self.entries.remove(&id)?;
        self.ids.remove(&entry.key);
        self.table.remove(&entry.key);
        self.held -= entry.held.len();
        Some(entry)
    }
}

/// Asks for a neighbour: everybody while its MAC is unknown, else itself.
fn request<K: Backend>(
    worker: usize,
    key: &NeighbourKey,
    known: Option<Mac>,
    snapshot: &Snapshot,
    output: &mut Output<K>,
) {
    let Some(index) = snapshot.interface_at(key.port, key.vlan) else { return };
    let Some(interface) = snapshot.interface(index) else { return };
    let mac = output.facts.mac(key.port);
    let Some(source) = asking_address(interface, key, mac) else { return };
    let frame = if is_v4(key.address) {
        arp::request(mac, source as u32, key.address as u32, known, key.vlan)
    } else {
        nd::solicitation(mac, source, key.address, known, key.vlan)
    };
    send_frame(worker, &frame, key.port, output);
}

/// Sends a complete frame of our own.
pub(super) fn send_frame<K: Backend>(worker: usize, frame: &[u8], port: PortSlot, output: &mut Output<K>) {
    if let Some(packet) = output.make(frame) {
        output.send(worker, packet, port);
    }
}

fn asking_address(interface: &Interface, key: &NeighbourKey, mac: Mac) -> Option<u128> {
    let v6 = !is_v4(key.address);
    interface
        .connected_to(key.address)
        .or_else(|| interface.addresses.iter().map(|a| a.0).find(|&a| is_v4(a) != v6))
        .or_else(|| v6.then(|| crate::stage::parse::link_local(mac)))
}
