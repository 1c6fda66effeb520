//! Everything at once, by a seed: pushes of every kind, kills of nodes and of control, a locked and a failing database, a bad line. Then all is well
//! again, and must be: every node on the newest stored version, no packet judged by a mixture, nothing lost from the books.
//!
//! `MARCHPROXY_CHAOS_SECONDS` (6) says for how long, `MARCHPROXY_CHAOS_SEED` repeats a run's choices; timing is the machine's.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use marchproxy_dataplane::runtime::Runtime;
use marchproxy_proto::v1;
use sqlx::{Connection as _, SqliteConnection};
use tonic::{Code, Status};

use super::relay::Relay;
use super::traffic::Traffic;
use super::world::{ControlRig, NodeRig, document, eventually};

const BOTH: [&str; 2] = ["edge-1", "edge-2"];

/// A small generator of our own: the choices depend on the seed alone.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

struct Chaos {
    dice: Dice,
    control: ControlRig,
    relays: Vec<Relay>,
    nodes: Vec<NodeRig>,
    /// What was done, for whoever reads a failure.
    log: Vec<String>,
    accepted: u64,
    refused: u64,
}

/// How a call may end while the database or control is in trouble, or another version waits.
fn expected(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::FailedPrecondition | Code::Cancelled | Code::Aborted)
        || status.message().contains("chaos")
        || std::error::Error::source(status).is_some()
}

impl Chaos {
    fn note<T>(&mut self, what: String, answer: Result<T, Status>) {
        match answer {
            Ok(_) => self.accepted += 1,
            Err(status) => {
                assert!(expected(&status), "{what}: {status:?}\n{}", self.log.join("\n"));
                self.refused += 1;
            }
        }
        self.log.push(what);
    }

    fn apply(&mut self, seed: u32) {
        let to_b = self.dice.one_in(2);
        let mut header = v1::ApplyHeader { request_id: format!("r{seed}"), ..Default::default() };
        if self.dice.one_in(3) {
            header.confirm_within_s = 1;
        }
        if self.dice.one_in(4) {
            header.together = Some(v1::Together { stage_within_s: 1, ..Default::default() });
        }
        let what = format!("apply r{seed}, to_b {to_b}, {} s, {:?}", header.confirm_within_s, header.together);
        let answer = self.control.apply_with(header, document(&BOTH, to_b, seed));
        self.note(what, answer);
    }

    fn confirm(&mut self) {
        let answer = self.control.config(async |mut config| config.confirm(v1::ConfirmRequest::default()).await);
        self.note("confirm".into(), answer);
    }

    fn rollback(&mut self) {
        let Ok(history) = self.control.history() else { return };
        let at = self.dice.below(history.len() as u64) as usize;
        let request = v1::RollbackRequest { to_version: history[at].version, ..Default::default() };
        let answer = self.control.config(async |mut config| config.rollback(request).await);
        self.note(format!("rollback to {}", history[at].version), answer);
    }

    fn kill_control(&mut self) {
        self.control.kill();
        std::thread::sleep(Duration::from_millis(self.dice.below(700)));
        self.control.resume();
        self.log.push("control killed".into());
    }

    fn kill_node(&mut self) {
        let which = self.dice.below(2) as usize;
        self.nodes[which].kill();
        std::thread::sleep(Duration::from_millis(self.dice.below(300)));
        self.nodes[which].resume();
        self.log.push(format!("{} killed", BOTH[which]));
    }

    /// Another process has the database, for so long that callers notice or not.
    fn lock_database(&mut self) {
        let url = format!("sqlite://{}", self.control.database().display());
        let hold = Duration::from_millis(100 + self.dice.below(400));
        self.control.wait(async move {
            let mut other = SqliteConnection::connect(&url).await.unwrap();
            // It may be locked itself just now.
            if sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.is_ok() {
                tokio::time::sleep(hold).await;
                sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
            }
        });
        self.log.push("database locked".into());
    }

    /// Nothing can be stored while a trigger says so.
    fn break_database(&mut self, seed: u32) {
        let statement = |text: &'static str| {
            let url = format!("sqlite://{}", self.control.database().display());
            self.control.wait(async move {
                let mut other = SqliteConnection::connect(&url).await.unwrap();
                sqlx::query(text).execute(&mut other).await.is_ok()
            })
        };
        if !statement(
            "CREATE TRIGGER IF NOT EXISTS chaos BEFORE INSERT ON versions BEGIN SELECT RAISE(ABORT, 'chaos: disk is full'); END",
        ) {
            return;
        }
        let answer = self.control.apply(document(&BOTH, seed.is_multiple_of(2), seed));
        assert!(answer.is_err(), "stored although nothing could be");
        self.note("apply to a broken database".into(), answer);
        eventually("the trigger goes", || statement_drop(&self.control).then_some(()));
    }

    fn disturb_line(&mut self) {
        let which = self.dice.below(2) as usize;
        let line = self.relays[which].line.clone();
        match self.dice.below(4) {
            0 => line.cut.store(true, Relaxed),
            1 => line.delay_ms.store(self.dice.below(80), Relaxed),
            2 => line.reorder.store(true, Relaxed),
            _ => {
                line.cut.store(false, Relaxed);
                line.delay_ms.store(0, Relaxed);
                line.reorder.store(false, Relaxed);
            }
        }
        self.log.push(format!("line of {}: {line:?}", BOTH[which]));
    }
}

fn statement_drop(control: &ControlRig) -> bool {
    let url = format!("sqlite://{}", control.database().display());
    control.wait(async move {
        let mut other = SqliteConnection::connect(&url).await.unwrap();
        sqlx::query("DROP TRIGGER IF EXISTS chaos").execute(&mut other).await.is_ok()
    })
}

#[test]
fn whatever_happens_every_node_ends_on_the_newest_version() {
    let span = Duration::from_secs(variable("MARCHPROXY_CHAOS_SECONDS", 6));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let seed = variable("MARCHPROXY_CHAOS_SEED", now.as_micros() as u64) | 1;
    println!("MARCHPROXY_CHAOS_SEED={seed}");
    let mut control = ControlRig::start();
    // Answers are not what is tested here: whoever waits for a node that is cut off waits for nothing.
    control.kill();
    control.settings.settle_timeout_s = 1;
    control.settings.push_timeout_s = 2;
    control.resume();
    let relays: Vec<Relay> = BOTH.iter().map(|_| Relay::start(control.address)).collect();
    let nodes: Vec<NodeRig> =
        BOTH.iter().zip(&relays).map(|(name, relay)| NodeRig::start(name, relay.address)).collect();
    control.apply(document(&BOTH, false, 0)).unwrap();
    let traffic: Vec<Traffic> = nodes.iter().map(|node| Traffic::start(node.world.clone())).collect();
    let mut chaos = Chaos { dice: Dice(seed), control, relays, nodes, log: Vec::new(), accepted: 0, refused: 0 };

    let start = Instant::now();
    let mut step = 0;
    while start.elapsed() < span {
        step += 1;
        match chaos.dice.below(16) {
            0..7 => chaos.apply(step),
            7 => chaos.confirm(),
            8 => chaos.rollback(),
            9 => chaos.kill_control(),
            10 | 11 => chaos.kill_node(),
            12 => chaos.lock_database(),
            13 => chaos.break_database(step),
            _ => chaos.disturb_line(),
        }
    }

    // All is well again, and what waits is decided by nobody.
    for relay in &chaos.relays {
        relay.line.cut.store(false, Relaxed);
        relay.line.delay_ms.store(0, Relaxed);
        relay.line.reorder.store(false, Relaxed);
    }
    let Chaos { control, nodes, log, accepted, refused, .. } = chaos;
    println!("{step} steps, {accepted} calls accepted, {refused} refused");
    let newest = eventually("nothing waits any more", || {
        let newest = control.history().ok()?.into_iter().next()?;
        (newest.confirmation() != v1::Confirmation::Pending).then_some(newest)
    });
    for node in &nodes {
        node.until_running(newest.version);
        control.until_version(&node.name, newest.version);
        assert_eq!(node.state.read().unconfirmed, 0, "{}", log.join("\n"));
    }
    // Two nodes of one document differ in names only; what they run is what control compiles for the version.
    let request = v1::GetRequest { version: newest.version, ..Default::default() };
    let stored = control.config(async |mut config| config.get(request).await).unwrap();
    let checked = marchproxy_control::api::dry_run(&stored.document.unwrap()).unwrap();
    for node in &nodes {
        assert_eq!(node.node().running().content_hash, checked.nodes[&node.name].content_hash, "{}", log.join("\n"));
    }
    for traffic in traffic {
        let [a, b] = traffic.end();
        assert!(a + b > 0, "no packet passed");
    }
    // Their drop asserts that what was received is accounted for.
    drop(nodes);
}
