//! The loop at a terminal: looks, keys, changes of size.

use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::Backend;
use ratatui::crossterm::event::{self, Event};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::View;
use super::app::{App, Wish};
use super::draw::draw;
use super::fleet::Fleet;
use super::source::{Live, Round, Source};
use crate::failure::Failure;

/// The thread that reads keys looks this often whether the screen is still there.
const BREATH: Duration = Duration::from_millis(100);
/// Ages of stale nodes go on also while nothing comes.
const REDRAW: Duration = Duration::from_secs(1);

/// Runs until the person, or SIGTERM, ends it. The terminal is left as it was found, also on a panic.
pub async fn run(source: Live, view: View, every: Duration) -> Result<(), Failure> {
    let broken = |why: std::io::Error| Failure::refused(format!("cannot use the terminal: {why}; try --once"));
    let mut ended = signal(SignalKind::terminate()).map_err(broken)?;
    let mut terminal = ratatui::try_init().map_err(broken)?;
    let (keys, events) = mpsc::channel(64);
    let reader = std::thread::spawn(move || read(&keys));
    let told = tokio::select! {
        told = watch(&mut terminal, source, events, view, every) => told.map_err(broken),
        _ = ended.recv() => Ok(()),
    };
    ratatui::restore();
    // Its channel is closed, so it ends within a breath.
    let _ = reader.join();
    told
}

/// Keys and changes of size, until nobody takes them any more.
fn read(events: &mpsc::Sender<Event>) {
    while !events.is_closed() {
        match event::poll(BREATH) {
            Ok(false) => {}
            Ok(true) => {
                let Ok(event) = event::read() else { return };
                if events.blocking_send(event).is_err() {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}

/// Draws what a source says until a key ends it, or the keys do.
pub async fn watch<B: Backend<Error = E>, E>(
    terminal: &mut Terminal<B>,
    source: impl Source + Send + 'static,
    mut events: mpsc::Receiver<Event>,
    view: View,
    every: Duration,
) -> Result<(), E> {
    let (mut app, mut fleet) = (App::new(view), Fleet::default());
    let (ask, mut rounds) = asker(source);
    let mut looks = interval(every);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut redraw = interval(REDRAW);
    redraw.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        terminal.draw(|frame| draw(frame, &app, &fleet, Instant::now()))?;
        tokio::select! {
            // Still being asked: the next tick will do.
            _ = looks.tick(), if !app.paused => drop(ask.try_send(())),
            _ = redraw.tick() => {}
            round = rounds.recv() => match round {
                Some(_) if app.paused => {}
                Some(round) => fleet.take(round, Instant::now()),
                None => return Ok(()),
            },
            event = events.recv() => match event {
                Some(Event::Key(key)) => match app.key(key, &fleet) {
                    Wish::Redraw => {}
                    Wish::Refresh => drop(ask.try_send(())),
                    Wish::Quit => return Ok(()),
                },
                // A change of size: the next frame has it.
                Some(_) => {}
                None => return Ok(()),
            },
        }
    }
}

/// Asks in a task of its own, so that a node that takes its time holds up no key.
fn asker(mut source: impl Source + Send + 'static) -> (mpsc::Sender<()>, mpsc::Receiver<Round>) {
    let (ask, mut asked) = mpsc::channel(1);
    let (say, rounds) = mpsc::channel(1);
    tokio::spawn(async move {
        while asked.recv().await.is_some() {
            if say.send(source.look().await).await.is_err() {
                return;
            }
        }
    });
    (ask, rounds)
}
