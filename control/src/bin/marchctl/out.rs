//! Standard output. A reader that goes away early (`marchctl get | head`) is no error.

use std::io::{IsTerminal as _, Write as _};

/// Writes to standard output, in colour where a person looks.
pub struct Out {
    colour: bool,
    terminal: bool,
    gone: bool,
}

/// What a colour says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// All is well, or something was added.
    Good,
    /// Worth a look.
    Warn,
    /// Broken, or something was removed.
    Bad,
    /// Beside the point.
    Faint,
    /// A heading.
    Strong,
}

impl Out {
    /// Colours only on a terminal, and not where `NO_COLOR` is set.
    pub fn new() -> Out {
        let terminal = std::io::stdout().is_terminal();
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Out { colour, terminal, gone: false }
    }

    /// Whether a person looks.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Whether nobody reads any more.
    pub fn is_gone(&self) -> bool {
        self.gone
    }

    /// Paints, or not.
    pub fn paint(&self) -> Paint {
        Paint { colour: self.colour }
    }

    /// Writes as it is.
    pub fn text(&mut self, text: &str) {
        if !self.gone {
            self.gone = std::io::stdout().lock().write_all(text.as_bytes()).is_err();
        }
    }

    /// Writes a line.
    pub fn line(&mut self, text: impl AsRef<str>) {
        self.text(text.as_ref());
        self.text("\n");
    }

    /// Makes it visible.
    pub fn flush(&mut self) {
        self.gone |= std::io::stdout().lock().flush().is_err();
    }
}

/// Paints texts, or leaves them.
#[derive(Clone, Copy, Debug)]
pub struct Paint {
    colour: bool,
}

impl Paint {
    /// No colours.
    #[cfg(test)]
    pub const PLAIN: Paint = Paint { colour: false };

    /// The text in the tone's colour.
    pub fn on(self, tone: Tone, text: impl AsRef<str>) -> String {
        let text = text.as_ref();
        if !self.colour || text.is_empty() {
            return text.to_owned();
        }
        let code = match tone {
            Tone::Good => "32",
            Tone::Warn => "33",
            Tone::Bad => "31",
            Tone::Faint => "2",
            Tone::Strong => "1",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}
