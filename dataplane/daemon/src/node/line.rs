//! The line to a worker: one command at a time, one answer.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use marchproxy_engine::ledger::Backend;
use marchproxy_engine::observe::Lens;
use marchproxy_engine::ports::PortSlot;
use marchproxy_engine::qos::Scheduler;
use marchproxy_engine::table::sessions::Flows;
use marchproxy_engine::worker::{Command, Reply, SessionPage};
use rtrb::{Consumer, Producer};

/// A worker looks at its commands every turn; a turn takes microseconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// Both ends of a worker's rings, shared by the builder and whoever asks for sessions.
pub(super) struct Line<K: Backend>(Mutex<Ends<K>>);

struct Ends<K: Backend> {
    commands: Producer<Command<K>>,
    replies: Consumer<Reply<K>>,
}

/// The worker did not answer in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the worker did not answer within {} s; please report this with its stack (gdb -p, thread apply all bt)", PATIENCE.as_secs())]
pub(super) struct Silent;

impl<K: Backend> Line<K> {
    pub(super) fn new(commands: Producer<Command<K>>, replies: Consumer<Reply<K>>) -> Self {
        Self(Mutex::new(Ends { commands, replies }))
    }

    /// Gives the worker a port's queues.
    pub(super) fn add_port(&self, port: PortSlot, rx: K::Rx, tx: K::Tx) -> Result<(), Silent> {
        let mut ends = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        send(&mut ends.commands, Command::AddPort { port, rx, tx })?;
        // The command has no answer; an empty ring says that it was taken.
        wait(|| (ends.commands.slots() == ends.commands.buffer().capacity()).then_some(()))
    }

    /// Takes a port's queues back and drops them: then the device can be stopped.
    pub(super) fn remove_port(&self, port: PortSlot) -> Result<(), Silent> {
        let mut ends = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        send(&mut ends.commands, Command::RemovePort(port))?;
        answer(&mut ends.replies, |reply| match reply {
            Reply::Port(answered, queues) if answered == port => {
                drop(queues);
                Some(())
            }
            _ => None,
        })
    }

    /// A page of the session list.
    pub(super) fn sessions(&self, page: Box<SessionPage>) -> Result<Box<SessionPage>, Silent> {
        let mut ends = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        send(&mut ends.commands, Command::Sessions(page))?;
        answer(&mut ends.replies, |reply| match reply {
            Reply::Sessions(page) => Some(page),
            Reply::Port(..) | Reply::Observed(_) | Reply::Queues(_) | Reply::Flows(_) => None,
        })
    }

    /// Has the worker look at packets through this lens, or no more; returns the one before.
    pub(super) fn observe(&self, lens: Option<Box<Lens>>) -> Result<Option<Box<Lens>>, Silent> {
        let mut ends = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        send(&mut ends.commands, Command::Observe(lens))?;
        answer(&mut ends.replies, |reply| match reply {
            Reply::Observed(before) => Some(before),
            Reply::Port(..) | Reply::Sessions(_) | Reply::Queues(_) | Reply::Flows(_) => None,
        })
    }

    /// Gives the worker the queues of a shaped port, or takes them away and frees them here.
    pub(super) fn queues(&self, port: PortSlot, queues: Option<Box<Scheduler<K::Buf>>>) -> Result<(), Silent> {
        let mut ends = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        send(&mut ends.commands, Command::Queues(port, queues))?;
        answer(&mut ends.replies, |reply| match reply {
            Reply::Queues(before) => {
                drop(before);
                Some(())
            }
            Reply::Port(..) | Reply::Sessions(_) | Reply::Observed(_) | Reply::Flows(_) => None,
        })
    }

    /// Has the worker tell of sessions by this, or no more; returns what it used before.
    pub(super) fn flows(&self, flows: Option<Box<Flows>>) -> Result<Option<Box<Flows>>, Silent> {
        let mut ends = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        send(&mut ends.commands, Command::Flows(flows))?;
        answer(&mut ends.replies, |reply| match reply {
            Reply::Flows(before) => Some(before),
            Reply::Queues(_) | Reply::Port(..) | Reply::Sessions(_) | Reply::Observed(_) => None,
        })
    }
}

fn send<K: Backend>(ring: &mut Producer<Command<K>>, command: Command<K>) -> Result<(), Silent> {
    ring.push(command).map_err(|_| Silent)
}

/// Waits for the answer that fits; others are of questions whose asker gave up.
fn answer<K: Backend, T>(
    ring: &mut Consumer<Reply<K>>,
    mut fits: impl FnMut(Reply<K>) -> Option<T>,
) -> Result<T, Silent> {
    wait(|| ring.pop().ok().and_then(&mut fits))
}

fn wait<T>(mut look: impl FnMut() -> Option<T>) -> Result<T, Silent> {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if start.elapsed() > PATIENCE {
            return Err(Silent);
        }
        std::thread::sleep(Duration::from_micros(20));
    }
}
