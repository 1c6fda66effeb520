//! The thread that forwards: pinned, asked over a channel between slices, joined at the end.

use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::thread::JoinHandle;

use super::subject::{Reading, Source, Subject};
use super::{Settings, pair};
use crate::Error;
use crate::probe::Probe;
use crate::process;
use crate::progress::Progress;
use crate::scenario::Scenario;

/// What it may be asked to do; each is answered with all counters.
pub enum Job {
    /// Make a node for this scenario and burst.
    Prepare(Scenario, usize),
    /// Forward from now on.
    Start,
    /// Stop forwarding.
    Stop,
    /// Nothing.
    Read,
}

/// The thread's handle.
pub struct Worker {
    jobs: Sender<Job>,
    answers: Receiver<Result<Reading, Error>>,
    thread: JoinHandle<Result<(), Error>>,
    /// The core it is pinned to.
    pub core: usize,
}

impl Worker {
    /// Starts it, without a node.
    pub fn start(settings: Settings, progress: Progress) -> Result<Self, Error> {
        let ((jobs, asked), (answer, answers)) = (pair(), pair());
        let (said, core) = pair();
        let thread = std::thread::Builder::new()
            .name("worker".into())
            .spawn(move || {
                let pinned = process::pin(settings.core);
                let failed = pinned.is_err();
                // The other end waits for it.
                let _ = said.send(pinned);
                if failed { Ok(()) } else { work(&settings.source, &asked, &answer, &progress) }
            })
            .map_err(|source| Error::System { what: "starting the worker's thread".into(), source })?;
        let core = core.recv().map_err(|_| Error::Harness("the worker's thread died"))??;
        Ok(Self { jobs, answers, thread, core })
    }

    /// Has a job done.
    pub fn ask(&mut self, job: Job) -> Result<Reading, Error> {
        let gone = Error::Harness("the worker's thread died");
        if self.jobs.send(job).is_err() {
            return Err(gone);
        }
        self.answers.recv().unwrap_or(Err(gone))
    }

    /// Ends and joins it.
    pub fn finish(self) -> Result<(), Error> {
        drop(self.jobs);
        self.thread.join().unwrap_or(Err(Error::Harness("the worker's thread panicked")))
    }
}

/// Until nobody asks any more.
fn work(
    source: &Source,
    asked: &Receiver<Job>,
    answer: &Sender<Result<Reading, Error>>,
    progress: &Progress,
) -> Result<(), Error> {
    #[cfg(feature = "dpdk")]
    let _thread = source.env.as_ref().map(|env| env.enter()).transpose()?;
    let mut probe = Probe::open();
    let mut subject: Option<Subject> = None;
    let mut running = false;
    loop {
        let job = match (running, &mut subject) {
            (true, Some(subject)) => match asked.try_recv() {
                Ok(job) => job,
                Err(TryRecvError::Disconnected) => return Ok(()),
                Err(TryRecvError::Empty) => {
                    subject.slice(&mut probe);
                    continue;
                }
            },
            _ => match asked.recv() {
                Ok(job) => job,
                Err(_) => return Ok(()),
            },
        };
        let done = match job {
            Job::Prepare(scenario, burst) => {
                // Devices must be free before they are opened again.
                drop(subject.take());
                Subject::new(source, scenario, burst, progress).map(|made| subject = Some(made))
            }
            Job::Start => {
                running = true;
                subject.as_mut().map(Subject::start).ok_or_else(no_node)
            }
            Job::Stop => {
                running = false;
                subject.as_mut().map(Subject::stop).ok_or_else(no_node)
            }
            Job::Read => Ok(()),
        };
        progress.finish();
        let reading = done.and_then(|()| subject.as_ref().map(Subject::read).ok_or_else(no_node));
        running &= subject.is_some();
        if answer.send(reading).is_err() {
            return Ok(());
        }
    }
}

fn no_node() -> Error {
    Error::Command {
        command: "this".into(),
        found: "no node: the last `set` failed".into(),
        allowed: "`set fwd` first".into(),
    }
}
