//! Section 4.5: unicast reverse path forwarding (RFC 3704, RFC 8704).

use super::Reference;
use super::layer4::Ip;
use super::node::is_link_local;
use super::route::best_ways;
use crate::reason::DropReason;
use crate::tables::Urpf;

impl Reference {
    /// Whether the source of a packet may come in on an interface.
    pub(super) fn check_source(&self, interface: usize, ip: &Ip) -> Result<(), DropReason> {
        let spec = self.node.interface(interface);
        if spec.urpf == Urpf::Off || ip.src.is_unspecified() || is_link_local(ip.src) {
            return Ok(());
        }
        let (ways, len) = best_ways(&self.node.tables, spec.table, ip.src).ok_or(DropReason::Urpf)?;
        let reached = match spec.urpf {
            Urpf::Strict => ways.contains(&interface),
            Urpf::Loose | Urpf::Off => len > 0,
        };
        if reached { Ok(()) } else { Err(DropReason::Urpf) }
    }
}
