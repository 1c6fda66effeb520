//! Frames and keys over nodes that a test makes up.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use marchproxy_proto::v1;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{Event, KeyCode, KeyEvent, KeyModifiers};
use tokio::sync::mpsc;

use super::app::{App, Wish};
use super::draw::draw;
use super::fleet::Fleet;
use super::source::{Look, Round, Source};
use super::{View, plain, screen};
use crate::out::Paint;

/// Rounds as written down; the last one again and again.
struct Script(VecDeque<Round>);

impl Source for Script {
    async fn look(&mut self) -> Round {
        if self.0.len() > 1 { self.0.pop_front() } else { self.0.front().cloned() }.unwrap_or_else(|| Ok(Vec::new()))
    }
}

fn reason(reason: &str, class: &str, packets: u64) -> v1::ReasonCount {
    v1::ReasonCount { reason: reason.into(), class: class.into(), packets, description: format!("because {reason}") }
}

/// A node after `seconds` at 1,000 packets a second.
fn look(node: &str, seconds: u64) -> Look {
    let packets = seconds * 1_000;
    let object = |kind: &str, name: &str| v1::ObjectCount {
        kind: kind.into(),
        name: name.into(),
        packets,
        bytes: packets * 100,
        dropped: 0,
    };
    let stage = |name: &str, cycles| v1::StageStats {
        name: name.into(),
        calls: packets / 20,
        packets,
        cycles_per_packet: cycles,
        ..v1::StageStats::default()
    };
    let port = v1::PortStats {
        name: "wan".into(),
        device: "pci:0000:03:00.0".into(),
        link_up: true,
        rx_packets: packets,
        rx_bytes: packets * 100,
        ..v1::PortStats::default()
    };
    let worker = v1::WorkerStats {
        core: 3,
        generation: 5,
        busy_ratio: 0.42,
        sessions: 77,
        stages: vec![stage("parse", 12.0), stage("route", 30.0)],
        ..v1::WorkerStats::default()
    };
    let backend = |name: &str, health: &str| v1::BackendStatus {
        service: "web".into(),
        name: name.into(),
        address: "fd00:20::11".into(),
        port: Some(8080),
        state: "up".into(),
        takes_sessions: health == "up",
        health: Some(v1::BackendHealth { state: health.into(), since_s: 61.0, ..v1::BackendHealth::default() }),
        ..v1::BackendStatus::default()
    };
    let stats = v1::StatsResponse {
        node: node.into(),
        version: 12,
        generation: 5,
        content_hash: "0123456789abcdef".into(),
        uptime_ms: seconds * 1_000,
        ports: vec![port],
        workers: vec![worker],
        drops: vec![reason("rule_deny", "policy", packets / 10), reason("no_route", "policy", packets / 2)],
        objects: vec![object("service", "web"), object("backend", "web/a"), object("rule", "rest")],
        conservation: Some(v1::Conservation { rx: packets, tx: packets, ..v1::Conservation::default() }),
        ..v1::StatsResponse::default()
    };
    Look { stats, backends: vec![backend("a", "up"), backend("b", "down")] }
}

fn fleet(at: Instant) -> Fleet {
    let mut fleet = Fleet::default();
    for (seconds, ago) in [(10, 2), (12, 0)] {
        let round = ["edge-1", "edge-2"].map(|node| (node.to_owned(), Ok(look(node, seconds))));
        fleet.take(Ok(round.into()), at.checked_sub(Duration::from_secs(ago)).unwrap());
    }
    fleet
}

/// What stands on a screen of a size.
fn screen(app: &App, fleet: &Fleet, at: Instant, (width, height): (u16, u16)) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, app, fleet, at)).unwrap();
    shown(terminal.backend())
}

fn shown(backend: &TestBackend) -> String {
    let buffer = backend.buffer();
    let width = usize::from(buffer.area.width).max(1);
    let cells: Vec<&str> = buffer.content().iter().map(ratatui::buffer::Cell::symbol).collect();
    cells.chunks(width).map(|line| line.concat().trim_end().to_owned() + "\n").collect()
}

fn press(app: &mut App, fleet: &Fleet, keys: &[KeyCode]) -> Vec<Wish> {
    keys.iter().map(|key| app.key(KeyEvent::new(*key, KeyModifiers::NONE), fleet)).collect()
}

#[track_caller]
fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

#[test]
fn the_first_screen_answers() {
    let at = Instant::now();
    let text = screen(&App::new(View::Overview), &fleet(at), at, (120, 40));
    has(&text, &["1 Overview", "node 1 of 2", "edge-1  healthy  version 12  generation 5", "residue 0"]);
    has(&text, &["wan", "1.00 k", "800.00 k", "42 %", "web", "q end"]);
    let (most, less) = (text.find("no_route").unwrap(), text.find("rule_deny").unwrap());
    assert!(most < less, "the busiest reason comes first:\n{text}");
}

#[test]
fn every_view_has_its_figures() {
    let at = Instant::now();
    let fleet = fleet(at);
    let figures: [(View, &[&str]); 8] = [
        (View::Overview, &["DROPPED BECAUSE"]),
        (View::Ports, &["wan", "up", "pci:0000:03:00.0"]),
        (View::Services, &["web", "800.00 k", "TAKE SESSIONS"]),
        (View::Backends, &["web/a", "web/b", "[fd00:20::11]:8080", "down", "1 min"]),
        (View::Drops, &["no_route", "because rule_deny", "500"]),
        (View::Stages, &["parse", "12.0", "20.0", "route"]),
        (View::Workers, &["42 %", "77", "42.0"]),
        (View::Nodes, &["edge-1", "edge-2", "healthy"]),
    ];
    for (place, (view, parts)) in figures.into_iter().enumerate() {
        let mut app = App::new(View::Overview);
        press(&mut app, &fleet, &[KeyCode::Char(char::from(b'1' + place as u8))]);
        assert_eq!(app.view, view);
        has(&screen(&app, &fleet, at, (140, 30)), parts);
        has(&plain::frame(&fleet, view, at, Paint::PLAIN), parts);
    }
}

#[test]
fn any_size_is_drawn() {
    let at = Instant::now();
    let fleet = fleet(at);
    for view in View::ALL {
        for size in [(1, 1), (3, 2), (20, 5), (80, 24), (300, 100)] {
            let mut app = App::new(view);
            press(&mut app, &fleet, &[KeyCode::PageDown, KeyCode::PageDown]);
            screen(&app, &fleet, at, size);
        }
    }
}

#[test]
fn a_node_that_vanished_is_stale() {
    let at = Instant::now();
    let mut fleet = fleet(at);
    let round = vec![
        ("edge-1".to_owned(), Err("did not answer within 3 s".to_owned())),
        ("edge-2".to_owned(), Ok(look("edge-2", 13))),
    ];
    fleet.take(Ok(round), at + Duration::from_secs(5));
    let later = at + Duration::from_secs(12);
    let mut app = App::new(View::Overview);
    has(&screen(&app, &fleet, later, (120, 40)), &["edge-1  stale since 12 s", "did not answer within 3 s", "wan"]);
    press(&mut app, &fleet, &[KeyCode::Char('n')]);
    has(&screen(&app, &fleet, later, (120, 40)), &["edge-2  healthy"]);
    let judged = fleet.judged().unwrap_err();
    assert_eq!((judged.exit_code(), judged.to_string()), (3, "edge-1: did not answer within 3 s".to_owned()));
    let json = plain::json(&fleet, later);
    assert_eq!(json["nodes"][0]["state"], "stale");
    assert_eq!(json["nodes"][0]["stale_s"], 12);
    assert_eq!(json["nodes"][1]["drops"][0]["reason"], "no_route");
    assert_eq!(json["summary"][1]["rx_packets_per_s"], 1000.0);
    // Nobody can be asked any more: all are stale, and the reason is shown.
    fleet.take(Err("cannot reach control".to_owned()), later);
    has(&screen(&app, &fleet, later, (120, 40)), &["edge-2  stale since", "cannot reach control"]);
    assert_eq!(fleet.anybody().unwrap_err().exit_code(), 2);
}

#[test]
fn a_node_that_never_answered_has_no_figures() {
    let at = Instant::now();
    let mut fleet = Fleet::default();
    fleet.take(Ok(vec![("edge-9".to_owned(), Err("was never connected to control".to_owned()))]), at);
    for view in View::ALL {
        has(&screen(&App::new(view), &fleet, at, (200, 24)), &["edge-9", "unknown", "was never connected"]);
        has(&plain::frame(&fleet, view, at, Paint::PLAIN), &["edge-9", "unknown"]);
    }
    assert_eq!(fleet.anybody().unwrap_err().exit_code(), 2);
}

#[test]
fn a_local_node_that_goes_and_comes_stays_one_node() {
    let at = Instant::now();
    let mut fleet = Fleet::default();
    fleet.take(Ok(vec![(String::new(), Err("broken pipe".to_owned()))]), at);
    fleet.take(Ok(vec![("edge-1".to_owned(), Ok(look("edge-1", 10)))]), at);
    fleet.take(Ok(vec![(String::new(), Err("broken pipe".to_owned()))]), at);
    assert_eq!((fleet.nodes.len(), fleet.nodes[0].trouble.as_deref()), (1, Some("broken pipe")));
    fleet.take(Ok(vec![("edge-1".to_owned(), Ok(look("edge-1", 12)))]), at);
    assert_eq!((fleet.nodes.len(), fleet.nodes[0].verdict().0), (1, "healthy"));
}

#[test]
fn keys_sort_pause_and_explain() {
    let at = Instant::now();
    let fleet = fleet(at);
    let mut app = App::new(View::Drops);
    let first = |app: &App| app.sheet(&fleet, at).unwrap().rows[0][0].0.show();
    assert_eq!(first(&app), "no_route");
    press(&mut app, &fleet, &[KeyCode::Char('r')]);
    assert_eq!(first(&app), "rule_deny");
    // From packets a second to the class, then to the reason: words upwards.
    press(&mut app, &fleet, &[KeyCode::Char('S'), KeyCode::Char('S')]);
    assert_eq!(app.sheet(&fleet, at).unwrap().sorted, (0, false));
    assert_eq!(first(&app), "no_route");
    has(&screen(&app, &fleet, at, (120, 20)), &["DROPPED BECAUSE ^"]);
    let wishes = press(&mut app, &fleet, &[KeyCode::Char('p'), KeyCode::Char('p'), KeyCode::Char('?')]);
    assert_eq!(wishes, [Wish::Redraw, Wish::Refresh, Wish::Redraw]);
    has(&screen(&app, &fleet, at, (120, 20)), &["reverse the order"]);
    // Escape leaves the help first, then the program.
    assert_eq!(press(&mut app, &fleet, &[KeyCode::Esc, KeyCode::Esc]), [Wish::Redraw, Wish::Quit]);
    let ctrl_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(app.key(ctrl_c, &fleet), Wish::Quit);
    press(&mut app, &fleet, &[KeyCode::Tab, KeyCode::BackTab, KeyCode::BackTab]);
    assert_eq!(app.view, View::Backends);
}

#[tokio::test]
async fn the_loop_shows_rounds_until_a_key_ends_it() {
    let round = |seconds| Ok(vec![("edge-1".to_owned(), Ok(look("edge-1", seconds)))]);
    let script = Script([round(10), round(11), Err("cannot reach control".to_owned())].into());
    let mut terminal = Terminal::new(TestBackend::new(120, 40)).unwrap();
    let (keys, events) = mpsc::channel(8);
    let ends = async {
        // Long enough for some looks; what is shown does not depend on how many.
        tokio::time::sleep(Duration::from_millis(200)).await;
        keys.send(Event::Resize(90, 30)).await.unwrap();
        keys.send(Event::Key(KeyEvent::new(KeyCode::Char('q'), KeyModifiers::NONE))).await.unwrap();
    };
    let watching = screen::watch(&mut terminal, script, events, View::Overview, Duration::from_millis(5));
    let both = async { tokio::join!(watching, ends) };
    let (told, ()) = tokio::time::timeout(Duration::from_secs(30), both).await.unwrap();
    told.unwrap();
    has(&shown(terminal.backend()), &["1 Overview"]);
}
