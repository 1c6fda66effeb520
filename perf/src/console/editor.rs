//! Lines as they are typed, with completion and history, or from a script. They are read on a thread of their own, so that the
//! console can leave while nobody types.

use std::io::IsTerminal;
use std::sync::mpsc::{Receiver, Sender};

use rustyline::completion::Completer;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::MemHistory;
use rustyline::validate::Validator;
use rustyline::{Config, Context, Editor, Helper};

use super::{grammar, pair};

const PROMPT: &str = "marchproxy-perf> ";

/// What was read.
pub enum Line {
    /// A line.
    Text(String),
    /// The end of input, or Ctrl-C.
    End,
}

/// The thread that reads.
pub struct Lines {
    /// Asks for a line.
    pub ask: Sender<()>,
    /// Brings it.
    pub answer: Receiver<Line>,
    /// Whether somebody types them.
    pub interactive: bool,
}

impl Lines {
    /// Starts it. It ends with its asker, or with the process while it waits for a key.
    pub fn start() -> Self {
        let ((ask, asked), (answers, answer)) = (pair(), pair());
        std::thread::spawn(move || read(&asked, &answers));
        Self { ask, answer, interactive: std::io::stdin().is_terminal() }
    }
}

fn read(asked: &Receiver<()>, answers: &Sender<Line>) {
    let config = Config::builder().auto_add_history(true).build();
    let Ok(mut editor) = Editor::<Words, MemHistory>::with_history(config, MemHistory::new()) else { return };
    editor.set_helper(Some(Words));
    while asked.recv().is_ok() {
        let line = editor.readline(PROMPT).map_or(Line::End, Line::Text);
        if answers.send(line).is_err() {
            return;
        }
    }
}

/// Completes the console's words.
struct Words;

impl Completer for Words {
    type Candidate = String;

    fn complete(&self, line: &str, at: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let (start, mut words) = grammar::complete(line.get(..at).unwrap_or(line));
        // The only one is whole: on to the next word.
        if let [word] = words.as_mut_slice() {
            word.push(' ');
        }
        Ok((start, words))
    }
}

impl Hinter for Words {
    type Hint = String;
}

impl Highlighter for Words {}
impl Validator for Words {}
impl Helper for Words {}
