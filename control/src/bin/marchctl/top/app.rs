//! What the person at the screen chose, and what keys change of it.

use std::time::Instant;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::View;
use super::fleet::Fleet;
use super::sheet::{self, Sheet};

/// Lines that Page Up and Page Down move by.
const PAGE: u16 = 10;

/// Choices.
#[derive(Debug)]
pub struct App {
    /// What is looked at.
    pub view: View,
    /// Which node.
    pub node: usize,
    /// Column and direction of each view, where changed.
    sorted: [Option<(usize, bool)>; View::ALL.len()],
    /// Lines that have left at the top.
    pub scroll: u16,
    /// Nobody is asked meanwhile.
    pub paused: bool,
    /// Whether the keys are explained.
    pub help: bool,
}

/// What a key asks of the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Show the frame again.
    Redraw,
    /// Ask the nodes now.
    Refresh,
    /// End.
    Quit,
}

impl App {
    /// Begins with a view.
    pub fn new(view: View) -> App {
        App { view, node: 0, sorted: [None; View::ALL.len()], scroll: 0, paused: false, help: false }
    }

    /// The sheet that is looked at, sorted; none for the overview and for nodes that never answered.
    pub fn sheet(&self, fleet: &Fleet, at: Instant) -> Option<Sheet> {
        let sheet = match self.view {
            View::Nodes => sheet::nodes(fleet, at),
            view => sheet::of_node(view, fleet.nodes.get(self.node)?)?,
        };
        let sorted = self.sorted[self.view as usize].unwrap_or(sheet.sorted);
        Some(sheet.sort(sorted))
    }

    /// A key was pressed.
    pub fn key(&mut self, key: KeyEvent, fleet: &Fleet) -> Wish {
        if key.kind == KeyEventKind::Release {
            return Wish::Redraw;
        }
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if control => return Wish::Quit,
            KeyCode::Char('l') if control => return Wish::Redraw,
            KeyCode::Esc if self.help => self.help = false,
            KeyCode::Char('q') | KeyCode::Esc => return Wish::Quit,
            KeyCode::Char('?' | 'h') => self.help = !self.help,
            KeyCode::Char('p' | ' ') => {
                self.paused = !self.paused;
                if !self.paused {
                    return Wish::Refresh;
                }
            }
            KeyCode::Char(digit @ '1'..='8') => self.look_at(digit as usize - '1' as usize),
            KeyCode::Tab | KeyCode::Right => self.look_at(self.view as usize + 1),
            KeyCode::BackTab | KeyCode::Left => self.look_at(self.view as usize + View::ALL.len() - 1),
            KeyCode::Char('s') => self.sort_by_next(1, fleet),
            KeyCode::Char('S') => self.sort_by_next(-1, fleet),
            KeyCode::Char('r') => {
                if let Some((column, down)) = self.sorted_now(fleet) {
                    self.sorted[self.view as usize] = Some((column, !down));
                }
            }
            KeyCode::Char('n') => self.go_to_node(1, fleet),
            KeyCode::Char('N') => self.go_to_node(-1, fleet),
            KeyCode::Up => self.scroll = self.scroll.saturating_sub(1),
            KeyCode::Down => self.scroll = self.scroll.saturating_add(1),
            KeyCode::PageUp => self.scroll = self.scroll.saturating_sub(PAGE),
            KeyCode::PageDown => self.scroll = self.scroll.saturating_add(PAGE),
            KeyCode::Home => self.scroll = 0,
            _ => {}
        }
        Wish::Redraw
    }

    fn look_at(&mut self, place: usize) {
        self.view = View::ALL[place % View::ALL.len()];
        (self.scroll, self.help) = (0, false);
    }

    fn go_to_node(&mut self, step: isize, fleet: &Fleet) {
        let nodes = fleet.nodes.len().max(1) as isize;
        self.node = (self.node as isize + step).rem_euclid(nodes) as usize;
        self.scroll = 0;
    }

    fn sorted_now(&self, fleet: &Fleet) -> Option<(usize, bool)> {
        self.sheet(fleet, Instant::now()).map(|sheet| sheet.sorted)
    }

    /// Numbers are sorted downwards at first, words upwards.
    fn sort_by_next(&mut self, step: isize, fleet: &Fleet) {
        let Some(sheet) = self.sheet(fleet, Instant::now()) else { return };
        let columns = sheet.columns.len() as isize;
        let column = (sheet.sorted.0 as isize + step).rem_euclid(columns) as usize;
        let down = sheet.columns[column].0.starts_with('>');
        self.sorted[self.view as usize] = Some((column, down));
    }
}
