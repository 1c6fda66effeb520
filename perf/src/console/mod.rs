//! The interactive mode: testpmd's habits over a worker that runs in a pinned thread of its own.

mod editor;
mod grammar;
mod show;
mod subject;
mod worker;

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use marchproxy_engine::burst::BURST;

use crate::Error;
use crate::progress::Progress;
use crate::scenario::Scenario;
use editor::{Line, Lines};
use grammar::{HELP, Order, parse};
use subject::Reading;
pub use subject::Source;
use worker::{Job, Worker};

/// How often the wish to stop is looked at while somebody thinks.
const PATIENCE: Duration = Duration::from_millis(50);

/// What the console was started with.
pub struct Settings {
    /// Where packets come from, and all amounts.
    pub source: Source,
    /// The scenario until another is set.
    pub scenario: Scenario,
    /// The worker's core.
    pub core: Option<usize>,
}

/// A console and its worker.
pub struct Console {
    worker: Worker,
    scenario: Scenario,
    burst: usize,
    running: bool,
    /// What the counters were when they were cleared, or forwarding started.
    ports_from: Reading,
    forward_from: Reading,
    /// When and where the last statistics of ports were, for rates.
    last: (Instant, Reading),
    failed: bool,
}

/// Runs until `quit`, the end of input, or Ctrl-C. False when a command of a script was refused: a terminal's user has seen it.
pub fn run(settings: Settings, progress: &Progress) -> Result<bool, Error> {
    let scenario = settings.scenario;
    let mut worker = Worker::start(settings, progress.clone())?;
    let reading = worker.ask(Job::Prepare(scenario, BURST))?;
    progress.finish();
    let mut console = Console {
        worker,
        scenario,
        burst: BURST,
        running: false,
        ports_from: reading.clone(),
        forward_from: reading.clone(),
        last: (Instant::now(), reading),
        failed: false,
    };
    let lines = Lines::start();
    let interactive = lines.interactive;
    while let Some(line) = next(&lines, progress) {
        match console.line(&line) {
            Ok(Some(text)) => print(&text),
            Ok(None) => break,
            Err(error) => {
                eprintln!("{error}");
                console.failed = true;
            }
        }
    }
    if console.running {
        let text = console.stop()?;
        print(&text);
    }
    console.worker.finish()?;
    Ok(interactive || !console.failed)
}

/// The next line, or the end.
fn next(lines: &Lines, progress: &Progress) -> Option<String> {
    lines.ask.send(()).ok()?;
    loop {
        match lines.answer.recv_timeout(PATIENCE) {
            Ok(Line::Text(text)) => return Some(text),
            Ok(Line::End) | Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) if progress.stopped() => return None,
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

fn print(text: &str) {
    use std::io::Write;
    if !text.is_empty() {
        let mut out = std::io::stdout();
        // A reader that has gone away is no failure of ours.
        let _ = writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush());
    }
}

impl Console {
    /// Does what a line says; `None` to leave.
    fn line(&mut self, line: &str) -> Result<Option<String>, Error> {
        let Some(order) = parse(line)? else { return Ok(Some(String::new())) };
        let text = match order {
            Order::Quit => return Ok(None),
            Order::Help => HELP.to_owned(),
            Order::Start => self.start()?,
            Order::Stop => self.stop()?,
            Order::Forward(scenario) => self.prepare(scenario, self.burst)?,
            Order::Burst(burst) => self.prepare(self.scenario, burst)?,
            Order::ShowPorts => {
                let reading = self.worker.ask(Job::Read)?;
                let (at, before) = std::mem::replace(&mut self.last, (Instant::now(), reading.clone()));
                show::ports(&reading, &self.ports_from, &before, at.elapsed())
            }
            Order::ShowForward => show::forward(&self.worker.ask(Job::Read)?, &self.forward_from),
            Order::ShowConfig => {
                let reading = self.worker.ask(Job::Read)?;
                show::config(&reading, self.scenario, self.burst, self.running, self.worker.core)
            }
            Order::ClearPorts | Order::ClearForward | Order::ClearAll => {
                let reading = self.worker.ask(Job::Read)?;
                if order != Order::ClearForward {
                    self.ports_from = reading.clone();
                }
                if order != Order::ClearPorts {
                    self.forward_from = reading;
                }
                "cleared".into()
            }
        };
        Ok(Some(text))
    }

    fn start(&mut self) -> Result<String, Error> {
        if self.running {
            return Err(refused("start", "already forwarding", "`stop` first"));
        }
        self.forward_from = self.worker.ask(Job::Start)?;
        self.running = true;
        Ok(format!("{} started on core {}, burst {}", self.scenario.label(), self.worker.core, self.burst))
    }

    fn stop(&mut self) -> Result<String, Error> {
        if !self.running {
            return Err(refused("stop", "not forwarding", "`start` first"));
        }
        let reading = self.worker.ask(Job::Stop)?;
        self.running = false;
        Ok(show::forward(&reading, &self.forward_from))
    }

    /// Another scenario or burst: a new node, whose counters begin at zero.
    fn prepare(&mut self, scenario: Scenario, burst: usize) -> Result<String, Error> {
        if self.running {
            return Err(refused("set", "forwarding", "`stop` first: the node is made anew"));
        }
        let reading = self.worker.ask(Job::Prepare(scenario, burst))?;
        (self.scenario, self.burst) = (scenario, burst);
        self.ports_from = reading.clone();
        self.forward_from = reading.clone();
        self.last = (Instant::now(), reading);
        Ok(format!("forwarding {}, burst {burst}", scenario.label()))
    }
}

fn refused(command: &'static str, found: &str, allowed: &str) -> Error {
    Error::Command { command: command.into(), found: found.into(), allowed: allowed.into() }
}

/// A channel whose ends have names.
fn pair<T>() -> (mpsc::Sender<T>, mpsc::Receiver<T>) {
    mpsc::channel()
}
