//! Section 7, limits: how many sessions a service and each source of it may have.

use std::collections::HashMap;
use std::net::IpAddr;

use super::address_octets;
use super::session::{Session, SessionState};
use crate::reason::DropReason;
use crate::tables::{LimitsSpec, ServiceLimitsSpec, ServiceSpec};

const SECOND: u64 = 1_000_000_000;

/// Whose sessions: a service's, or of these a source's, given by the first bits of its addresses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Counted {
    /// The service's name.
    pub service: String,
    /// The source, where sources have limits.
    pub source: Option<Vec<bool>>,
}

/// When the rates of services and sources are saved up again.
#[derive(Clone, Debug, Default)]
pub(super) struct Rates {
    full_at: HashMap<Counted, u64>,
}

impl Rates {
    /// Where a first packet's session would be counted; an error when it is beyond a limit.
    pub fn admit(
        &self,
        now: u64,
        service: &ServiceSpec,
        client: IpAddr,
        opening: bool,
        sessions: &[Session],
    ) -> Result<Option<Counted>, DropReason> {
        let Some(limits) = &service.limits else { return Ok(None) };
        let mut counted = Counted { service: service.name.clone(), source: None };
        let of_service = |session: &&Session| session.counted.as_ref().is_some_and(|c| c.service == service.name);
        if self.beyond(now, &limits.total, &counted, opening, sessions.iter().filter(of_service)) {
            return Err(DropReason::SessionLimitService);
        }
        if limits.per_source != LimitsSpec::default() {
            counted.source = Some(source(limits, client));
            let of_source = |session: &&Session| session.counted.as_ref() == Some(&counted);
            if self.beyond(now, &limits.per_source, &counted, opening, sessions.iter().filter(of_source)) {
                return Err(DropReason::SessionLimitSource);
            }
        }
        Ok(Some(counted))
    }

    /// The session came to be.
    pub fn take(&mut self, now: u64, limits: &ServiceLimitsSpec, counted: &Counted) {
        self.take_one(now, &limits.total, Counted { source: None, ..counted.clone() });
        if counted.source.is_some() {
            self.take_one(now, &limits.per_source, counted.clone());
        }
    }

    fn take_one(&mut self, now: u64, limits: &LimitsSpec, counted: Counted) {
        if let Some(rate) = limits.new_per_s {
            let full_at = self.full_at.entry(counted).or_default();
            *full_at = now.max(*full_at) + interval(rate);
        }
    }

    fn beyond<'a>(
        &self,
        now: u64,
        limits: &LimitsSpec,
        counted: &Counted,
        opening: bool,
        sessions: impl Iterator<Item = &'a Session>,
    ) -> bool {
        let states: Vec<SessionState> = sessions.map(Session::state).collect();
        let half_open = states.iter().filter(|state| **state == SessionState::Opening).count();
        let reached = |count: usize, limit: Option<u32>| limit.is_some_and(|limit| count >= limit as usize);
        let used_up = limits.new_per_s.is_some_and(|rate| {
            let missing = self.full_at.get(counted).map_or(0, |full_at| full_at.saturating_sub(now));
            missing + interval(rate) > u64::from(rate) * interval(rate)
        });
        reached(states.len(), limits.sessions) || opening && reached(half_open, limits.half_open) || used_up
    }
}

fn interval(rate: u32) -> u64 {
    SECOND.div_ceil(u64::from(rate))
}

/// The bits of an address that make the source; their number tells the families apart where they are the same.
fn source(limits: &ServiceLimitsSpec, client: IpAddr) -> Vec<bool> {
    let len = if client.is_ipv4() { limits.source_v4 } else { limits.source_v6 };
    let octets = address_octets(client);
    let bits = (0..usize::from(len)).map(|bit| octets[bit / 8] >> (7 - bit % 8) & 1 == 1);
    std::iter::once(client.is_ipv4()).chain(bits).collect()
}
