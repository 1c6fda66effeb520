//! Services, their sessions, and the packets of both directions.

use std::collections::BTreeMap;

use marchproxy_engine::flow::to_ip;
use marchproxy_engine::table::sessions::Sessions;
use marchproxy_engine::tables::{
    BackendSpec, PolicerAction, PolicerSpec, PortRange, RuleTables, ServiceProtocol, ServiceSpec,
};
use marchproxy_engine::wire::TCP;

use super::flows::from_wan;
use super::topology::{self, LAN};
use super::{Params, Plan, STEADY, Scenario};
use crate::Error;
use crate::load::{Kind, Load, Template};
use crate::neighbourhood::mac_of;
use crate::rig::{Capacity, mac};
use crate::seeded::rules::Tuple;
use crate::seeded::{Rng, addresses, routes};

/// Port of every service.
const PORT: u16 = 443;
/// Port of every backend.
const BACKEND_PORT: u16 = 8443;
/// Sessions of one client.
const PER_CLIENT: usize = 4;
/// Clients that start new sessions in turn, each with 63,976 ports.
pub const NEWCOMERS: usize = 1024;
/// Spare places in the session table, in percent: a full table's last entries cost more than it is worth to measure.
const SPARE: usize = 10;

/// Services with an address and half the backends of each family.
pub fn specs(params: &Params, policed: bool) -> (Vec<ServiceSpec>, Vec<PolicerSpec>) {
    let backend = |service: usize, number: usize| BackendSpec {
        name: format!("b{number:04}"),
        address: topology::backend(service * params.backends + number, number % 2 == 1),
        port: Some(BACKEND_PORT),
        weight: 1,
        ..Default::default()
    };
    let service = |number: usize| ServiceSpec {
        name: format!("s{number:04}"),
        addresses: vec![addresses::service(number as u16, false), addresses::service(number as u16, true)],
        protocol: ServiceProtocol::Tcp,
        ports: vec![PortRange { first: PORT, last: PORT }],
        source_affinity: false,
        backends: (0..params.backends).map(|b| backend(number, b)).collect(),
        policer: policed.then_some(number),
        mark: None,
        ..Default::default()
    };
    // 100 Gbit/s and 16 MB: the meter works, nothing is dropped.
    let policer = |number: usize| PolicerSpec {
        name: format!("p{number:04}"),
        cir: 100_000_000,
        cbs: 16_000_000,
        ebs: 16_000_000,
        on_green: PolicerAction::Pass,
        on_yellow: PolicerAction::Mark(12),
        on_red: PolicerAction::Drop,
        ..Default::default()
    };
    let policers = if policed { (0..params.services).map(policer).collect() } else { Vec::new() };
    ((0..params.services).map(service).collect(), policers)
}

/// The client side of session `number`: service and family in turn.
pub fn client_tuple(number: usize, params: &Params) -> Tuple {
    let v6 = (number / params.services).is_multiple_of(2);
    let service = (number % params.services) as u16;
    // A fixed pseudo-random port, different for the sessions of one client.
    let spread = (number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 50;
    let sport = 1024 + ((spread as usize % 15_000) * PER_CLIENT + number % PER_CLIENT) as u16;
    Tuple {
        src: addresses::client((number / PER_CLIENT) as u32, v6),
        dst: addresses::service(service, v6),
        protocol: TCP,
        sport,
        dport: PORT,
    }
}

/// First packets of all sessions. They carry ACK, as after a restart of the node: each session is established by one packet.
pub fn openers(params: &Params, rng: &mut Rng) -> Vec<Template> {
    (0..params.sessions).map(|n| from_wan(&client_tuple(n, params), Kind::Data, params, rng)).collect()
}

/// First packets of clients that no lasting session has: counted from behind the largest number of sessions.
pub fn newcomers(params: &Params, rng: &mut Rng) -> Vec<Template> {
    let newcomer = |number: usize| {
        let of_service = client_tuple(number, params);
        let src = addresses::client(3_000_000 + number as u32, of_service.src.is_ipv6());
        from_wan(&Tuple { src, ..of_service }, Kind::Syn, params, rng)
    };
    (0..NEWCOMERS).map(newcomer).collect()
}

/// Entries for this many sessions with room to spare.
pub fn room(sessions: usize) -> usize {
    sessions + sessions * SPARE / 100 + 64
}

/// The scenarios `balance` and `police`.
pub fn plan(scenario: Scenario, params: &Params) -> Plan {
    let prefixes = routes::generate(params.routes, false, params.seed);
    let (services, policers) = specs(params, scenario == Scenario::Police);
    let tables = RuleTables { services, policers, ..topology::tables(&prefixes, false) };
    let first = openers(params, &mut Rng::new(params.seed, "openers"));
    Plan { tables, first, load: Load::default(), capacity: Capacity { sessions: room(params.sessions), step: STEADY } }
}

/// The scenario `new_sessions`: half-open sessions fill the table, and each new one takes the place of another.
pub fn flood(params: &Params) -> Plan {
    let prefixes = routes::generate(params.routes, false, params.seed);
    let (services, policers) = specs(params, false);
    let tables = RuleTables { services, policers, ..topology::tables(&prefixes, false) };
    let mut rng = Rng::new(params.seed, "openers");
    let first = (0..params.sessions).map(|n| from_wan(&client_tuple(n, params), Kind::Syn, params, &mut rng)).collect();
    let mut load = Load::default();
    load.add_fresh(1000, newcomers(params, &mut Rng::new(params.seed, "newcomers")));
    Plan { tables, first, load, capacity: Capacity { sessions: params.sessions, step: STEADY } }
}

/// Adds the packets of the active sessions, drawn at random from all of them: the client's, and the reply of the backend that the node chose.
pub fn establish(
    sessions: &[&Sessions],
    now: u64,
    params: &Params,
    per_mille: u32,
    load: &mut Load,
    drops: &BTreeMap<&'static str, u64>,
) -> Result<(), Error> {
    let mut rng = Rng::new(params.seed, "active sessions");
    let mut numbers: Vec<u32> = (0..params.sessions as u32).collect();
    rng.shuffle(&mut numbers);
    let mut templates = Vec::with_capacity(params.flows * 2);
    for &number in numbers.iter().take(params.flows) {
        let tuple = client_tuple(number as usize, params);
        let key = tuple.key(0).flow;
        let found = sessions.iter().find_map(|table| {
            let hit = table.find(&key, table.hash(&key), now);
            table.get(hit).filter(|_| hit.is_some())
        });
        let Some(session) = found else { continue };
        let reply = Tuple {
            src: to_ip(session.backend()),
            dst: tuple.src,
            sport: session.backend_port(),
            dport: tuple.sport,
            ..tuple
        };
        templates.push(from_wan(&tuple, Kind::Data, params, &mut rng));
        let station = mac_of(reply.src);
        templates.push(Template::new(LAN, station, mac(LAN), &reply, Kind::Data, params.packet, &mut rng));
    }
    let found = templates.len() / 2;
    let live: usize = sessions.iter().map(|table| table.len()).sum();
    if found < params.flows || live < params.sessions {
        let drops = drops.iter().map(|(why, n)| format!("{why} {n}")).collect::<Vec<_>>();
        let drops = drops.join(", ");
        return Err(Error::Sessions { found: live, wanted: params.sessions, drops });
    }
    load.add(per_mille, templates);
    Ok(())
}
