//! What is decided in front of the engine: the XDP program of AF_XDP ports, its tables and its counts.
//!
//! Packets that end there are the node's like all others: their counts are added to what its threads count, also when their port is gone.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use marchproxy_engine::io::Mac;
use marchproxy_engine::reason::DropReason;
use marchproxy_engine::tables::RuleTables;
use marchproxy_xdp::{Counter, OnDaemonLoss, Options, Place, Plan, PortFacts, Push, Steering, Xdp, XdpError};

use crate::kernel::kernel_addresses;

/// Packets and octets.
pub type Count = (u64, u64);

/// What ended in front of the engine, over all ports there are or were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EarlyCounts {
    /// By reason.
    pub drops: BTreeMap<DropReason, Count>,
    /// By rule, of those that run.
    pub rules: BTreeMap<String, Count>,
}

/// What a port's program did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EarlyPort {
    /// Ended there.
    pub dropped: Count,
    /// Left to the kernel, which is nothing of the node's.
    pub kernel: Count,
}

/// Where a rule is decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RulePlace {
    /// Its name.
    pub rule: String,
    /// In the XDP program.
    pub early: bool,
    /// Why there.
    pub reason: String,
}

/// XDP of this process.
#[derive(Debug)]
pub(super) struct Early {
    xdp: Xdp,
    on_daemon_loss: OnDaemonLoss,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    open: Vec<Arc<Steering>>,
    /// Of ports that are gone.
    ended: BTreeMap<DropReason, Count>,
    /// What was published last, as far as the program has to do with it.
    tables: RuleTables,
    kernel: Vec<IpAddr>,
    places: Vec<RulePlace>,
}

/// The program on one interface. It is off when this is dropped.
#[derive(Debug)]
pub(super) struct Steered {
    early: Arc<Early>,
    steering: Arc<Steering>,
}

fn plus(sum: Count, more: Count) -> Count {
    (sum.0 + more.0, sum.1 + more.1)
}

impl Early {
    /// Tries whether the kernel takes the program.
    pub fn load(on_daemon_loss: OnDaemonLoss) -> Result<Self, XdpError> {
        Ok(Self { xdp: Xdp::load()?, on_daemon_loss, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Steers an interface to these sockets. Until something is published everything is the kernel's.
    pub fn attach<'a>(
        self: &Arc<Self>,
        ifindex: u32,
        sockets: impl Iterator<Item = (u32, BorrowedFd<'a>)>,
    ) -> Result<Steered, XdpError> {
        let options = Options { on_daemon_loss: self.on_daemon_loss, ..Options::default() };
        let steering = Steering::attach(&self.xdp, ifindex, &options)?;
        for (queue, socket) in sockets {
            steering.register(queue, socket)?;
        }
        let steering = Arc::new(steering);
        self.state().open.push(steering.clone());
        Ok(Steered { early: self.clone(), steering })
    }

    /// Puts tables into force from one packet to the next: on these ports, by their index in the tables. Without tables those of the last time.
    /// On an error the ones before stay.
    pub fn publish(&self, tables: Option<&RuleTables>, ports: &[(&str, Mac, &Steered)]) -> Result<(), XdpError> {
        let mut state = self.state();
        let state = &mut *state;
        let wanted = tables.map(relevant);
        let kernel = kernel_addresses().unwrap_or_else(|_| state.kernel.clone());
        let tables = wanted.as_ref().unwrap_or(&state.tables);
        let of = |(name, mac, steered): &(&str, Mac, &Steered)| {
            let index = tables.ports.iter().position(|port| port.name == *name)?;
            Some((index, steered.steering.clone(), PortFacts::new(tables, index, *mac, &kernel)))
        };
        let ports: Vec<_> = ports.iter().filter_map(of).collect();
        let ports: Vec<_> = ports.iter().map(|(index, steering, facts)| (*index, &**steering, facts)).collect();
        let plan = self.xdp.publish(&Push { tables, kernel: &kernel, ports: &ports, sending: None })?;
        let places = places(tables, &plan);
        if let Some(wanted) = wanted {
            state.tables = wanted;
        }
        (state.kernel, state.places) = (kernel, places);
        Ok(())
    }

    /// Whether the program is on some port.
    pub fn is_open(&self) -> bool {
        !self.state().open.is_empty()
    }

    /// Whether the kernel has other addresses than were published.
    pub fn is_stale(&self) -> bool {
        let state = self.state();
        !state.open.is_empty() && kernel_addresses().is_ok_and(|now| now != state.kernel)
    }

    /// While somebody looks at packets none ends here.
    pub fn watch(&self, watched: bool) {
        if let Err(error) = self.xdp.watch(watched) {
            tracing::warn!("what ends in XDP is not seen by whoever looks at packets: {error}");
        }
    }

    /// Where the rules are decided; none without a port of AF_XDP.
    pub fn places(&self) -> Vec<RulePlace> {
        let state = self.state();
        if state.open.is_empty() { Vec::new() } else { state.places.clone() }
    }

    pub fn counts(&self) -> EarlyCounts {
        let state = self.state();
        let mut drops = state.ended.clone();
        for steering in &state.open {
            add_drops(&mut drops, steering);
        }
        EarlyCounts { drops, rules: self.xdp.rules().unwrap_or_default() }
    }
}

/// A count that can't be read is none; the kernel keeps it as long as the program.
fn add_drops(sums: &mut BTreeMap<DropReason, Count>, steering: &Steering) {
    for (reason, packets, octets) in steering.drops().unwrap_or_default() {
        let sum = sums.entry(reason).or_default();
        *sum = plus(*sum, (packets, octets));
    }
}

/// What the program has to do with: routes, of which there may be many, are the engine's.
fn relevant(tables: &RuleTables) -> RuleTables {
    RuleTables {
        ports: tables.ports.clone(),
        interfaces: tables.interfaces.clone(),
        rules: tables.rules.clone(),
        services: tables.services.clone(),
        ..RuleTables::default()
    }
}

fn places(tables: &RuleTables, plan: &Plan) -> Vec<RulePlace> {
    let of = |(rule, place): (&String, &Place)| {
        let (early, reason) = match place {
            Place::Xdp => (true, "denies by addresses, protocol and ports alone".to_owned()),
            Place::UserSpace(why) => (false, why.to_string()),
        };
        RulePlace { rule: rule.clone(), early, reason }
    };
    tables.rules.iter().map(|rule| &rule.name).zip(&plan.rules).map(of).collect()
}

impl Steered {
    /// What the program did here.
    pub fn counts(&self) -> EarlyPort {
        let drops = self.steering.drops().unwrap_or_default();
        let dropped = drops.into_iter().fold((0, 0), |sum, (_, packets, octets)| plus(sum, (packets, octets)));
        EarlyPort { dropped, kernel: self.steering.count(Counter::ToKernel).unwrap_or_default() }
    }

    /// `native` or `generic`.
    pub fn mode(&self) -> &'static str {
        self.steering.mode().label()
    }
}

impl Drop for Steered {
    fn drop(&mut self) {
        let mut state = self.early.state();
        self.steering.detach();
        add_drops(&mut state.ended, &self.steering);
        state.open.retain(|open| !Arc::ptr_eq(open, &self.steering));
    }
}
