//! DPDK's l3fwd with its four ways to look up: longest prefix, FIB, access list, exact match.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use marchproxy_engine::wire::{ETHERNET, ETHERTYPE_IPV6, be16, be32, be128};

use super::Peer;
use crate::Error;
use crate::compare::dpdk::{Program, Worker};
use crate::compare::examples::{Edit, build};
use crate::compare::l3fwd_files::{self as files, Files};
use crate::compare::rig::Rig;
use crate::load::Template;
use crate::progress::Progress;
use crate::rig::mac;
use crate::scenario::Plan;
use crate::seeded::rules::Tuple;

/// Environment variables that take the place of constants in l3fwd, by the edits below.
const BUFFERS: &str = "MARCHPROXY_BUFFERS";
const ROUTES: &str = "MARCHPROXY_ROUTES";
const GROUPS: &str = "MARCHPROXY_GROUPS";

/// The example as it is needed here. No virtual device checks checksums (the first edit); the pool must hold the capture files (the
/// second); tables must hold as many routes as ours (the next four). The last one makes room for a million sessions of each family
/// instead of four, which take 700 MB.
const EDITS: [Edit; 7] = [
    Edit { file: "main.c", from: ".offloads = RTE_ETH_RX_OFFLOAD_CHECKSUM", to: ".offloads = 0" },
    Edit { file: "main.c", from: "(unsigned)8192)", to: "(unsigned)atoi(getenv(\"MARCHPROXY_BUFFERS\")))" },
    Edit {
        file: "l3fwd_lpm.c",
        from: "LPM_MAX_RULES         1024",
        to: "LPM_MAX_RULES ((unsigned)atoi(getenv(\"MARCHPROXY_ROUTES\")))",
    },
    Edit {
        file: "l3fwd_lpm.c",
        from: "IPV6_L3FWD_LPM_NUMBER_TBL8S (1 << 16)",
        to: "IPV6_L3FWD_LPM_NUMBER_TBL8S ((unsigned)atoi(getenv(\"MARCHPROXY_GROUPS\")))",
    },
    Edit {
        file: "l3fwd_fib.c",
        from: "max_routes = (1 << 16)",
        to: "max_routes = atoi(getenv(\"MARCHPROXY_ROUTES\"))",
    },
    Edit {
        file: "l3fwd_fib.c",
        from: "trie.num_tbl8 = (1 << 15)",
        to: "trie.num_tbl8 = atoi(getenv(\"MARCHPROXY_GROUPS\"))",
    },
    Edit { file: "l3fwd.h", from: "(1024*1024*4)", to: "(1024*1024*1)" },
];

/// The most flows of one family that its exact match has room for.
const MOST_FLOWS: usize = 1_000_000;

/// Megabytes beside packets: the first 24 bits of both families, rules, hashes.
const TABLES: usize = 512;

/// A way to look up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// rte_lpm, rte_lpm6.
    Lpm,
    /// rte_fib, rte_fib6.
    Fib,
    /// rte_acl.
    Acl,
    /// rte_hash.
    Em,
}

/// l3fwd.
pub struct L3fwd {
    lookup: Lookup,
    program: PathBuf,
    options: Vec<String>,
    environment: Vec<(&'static str, String)>,
    lost: f64,
}

impl L3fwd {
    /// With a way to look up.
    pub fn new(lookup: Lookup) -> Self {
        Self { lookup, program: PathBuf::new(), options: Vec::new(), environment: Vec::new(), lost: 0.0 }
    }

    fn files(&self, plan: &Plan) -> Result<Files, Error> {
        match self.lookup {
            Lookup::Lpm | Lookup::Fib => Ok(files::routes(&plan.tables)),
            Lookup::Acl => Ok(files::rules(&plan.tables, 0)),
            Lookup::Em => {
                let (sessions, load) = (plan.first.iter(), plan.load.lasting());
                let mut flows: Vec<_> = sessions.chain(load).filter_map(flow).collect();
                flows.sort_unstable_by_key(|(flow, _)| (flow.dst, flow.src, flow.dport, flow.sport));
                flows.dedup();
                let files = files::flows(&flows);
                if let Some(&found) = files.lines.iter().find(|lines| **lines > MOST_FLOWS) {
                    let why = format!("{found} flows of one family; l3fwd's table has room for {MOST_FLOWS} here");
                    return Err(Error::Peer(why));
                }
                Ok(files)
            }
        }
    }
}

/// A frame's flow, and the port it leaves by: the one it does not arrive on.
fn flow(template: &Template) -> Option<(Tuple, u8)> {
    let frame = template.frame(mac(template.port));
    let (src, dst, protocol, l4) = if be16(&frame, 12) == ETHERTYPE_IPV6 {
        let address = |at| std::net::Ipv6Addr::from_bits(be128(&frame, ETHERNET + at)).into();
        (address(8), address(24), *frame.get(ETHERNET + 6)?, ETHERNET + 40)
    } else {
        let address = |at| std::net::Ipv4Addr::from_bits(be32(&frame, ETHERNET + at)).into();
        (address(12), address(16), *frame.get(ETHERNET + 9)?, ETHERNET + 20)
    };
    let tuple = Tuple { src, dst, protocol, sport: be16(&frame, l4), dport: be16(&frame, l4 + 2) };
    Some((tuple, 1 - template.port))
}

impl Peer for L3fwd {
    fn name(&self) -> &'static str {
        match self.lookup {
            Lookup::Lpm => "l3fwd-lpm",
            Lookup::Fib => "l3fwd-fib",
            Lookup::Acl => "l3fwd-acl",
            Lookup::Em => "l3fwd-em",
        }
    }

    fn prepare(&mut self, rig: &Rig, plan: &Plan, progress: &Progress) -> Result<(), Error> {
        self.program = build("l3fwd", &EDITS, rig.folder(), progress)?;
        let files = self.files(plan)?;
        let lookup = self.name().trim_start_matches("l3fwd-");
        self.options = ["-p", "3", "--config", "(0,0,0),(1,0,0)", "--parse-ptype"].map(String::from).to_vec();
        self.options.push(format!("--lookup={lookup}"));
        for (family, text) in [("ipv4", &files.v4), ("ipv6", &files.v6)] {
            let path = rig.folder().join(format!("{lookup}-{family}"));
            fs::write(&path, text).map_err(|source| Error::System { what: "l3fwd's tables".into(), source })?;
            self.options.push(format!("--rule_{family}={}", path.display()));
        }
        // What the example has by itself, or what our routes take: an IPv6 prefix of up to 48 bits opens three groups of 256 at most.
        let [v4, v6] = files.lines;
        let (routes, groups) = (v4.max(v6).max(1024) + 1, (3 * v6).max(1 << 15));
        self.environment =
            vec![(BUFFERS, rig.buffers().to_string()), (ROUTES, routes.to_string()), (GROUPS, groups.to_string())];
        Ok(())
    }

    fn rate(&mut self, rig: &Rig, duration: Duration, progress: &Progress) -> Result<f64, Error> {
        let program = Program {
            name: self.name(),
            path: &self.program,
            worker: Worker::Main,
            megabytes: rig.buffer_megabytes() + TABLES,
            arguments: self.options.clone(),
            environment: self.environment.clone(),
        };
        let rate = program.rate(rig, duration, progress)?;
        self.lost = self.lost.max(rate.lost_percent);
        Ok(rate.per_cpu_second)
    }

    fn note(&self) -> String {
        let does = match self.lookup {
            Lookup::Lpm => "the same routes in rte_lpm and rte_lpm6",
            Lookup::Fib => "the same routes in rte_fib and rte_fib6",
            Lookup::Acl => {
                "the same rules in rte_acl; a permit is its route, so there is no look-up of the destination"
            }
            Lookup::Em => "a lower bound: the same sessions as flows in rte_hash; no NAT, no state, no clock",
        };
        let lost =
            if self.lost > 0.5 { format!("; {:.1} % of its packets were not sent", self.lost) } else { String::new() };
        format!(
            "{does}; fixed MAC addresses instead of neighbours, no counters, IPv6's hop limit stays; its steps for several packets \
             of one family are seldom taken, the families being mixed{lost}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::programs;
    use crate::scenario::{Params, Scenario, traffic};

    #[test]
    fn both_directions_of_a_session_are_flows() {
        let params =
            Params { flows: 50, sessions: 80, services: 2, backends: 2, ..programs::defaults(Scenario::Balance) };
        let plan = traffic(Scenario::Balance, &params, &Progress::hidden()).unwrap();
        let files = L3fwd::new(Lookup::Em).files(&plan).unwrap();
        // Every session's client side, and the replies of the 50 active ones.
        assert_eq!(files.lines.iter().sum::<usize>(), 80 + 50);
        assert!(files.v4.lines().filter(|line| line.ends_with(" 1")).count() > 5, "{}", files.v4);
        assert!(files.v6.lines().any(|line| line.contains(" 443 ") && line.ends_with(" 0")), "{}", files.v6);
    }
}
