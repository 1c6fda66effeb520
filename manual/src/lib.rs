//! Reference (`docs/cli.md`) and man pages from a program's own description of its command line. Each program has a test that calls [`check`];
//! `MARCHPROXY_WRITE_DOCS=1 cargo test manual` writes the reference anew. Man pages are written by the programs ([`asked`]) when they are installed.
#![forbid(unsafe_code)]

mod entry;
mod markdown;
mod roff;

use std::fs;
use std::path::Path;

use clap::Command;

pub use entry::{Entry, Item, entries};

/// The only argument of a program that is to write its man page.
pub const ASK: &str = "--man-page";

/// The program's man page, where this process was asked for it and for nothing else. `section`: 1 for people's commands, 8 for the system's.
pub fn asked(command: impl FnOnce() -> Command, section: u8) -> Option<String> {
    let mut arguments = std::env::args_os().skip(1);
    let is_asked = arguments.next().is_some_and(|argument| argument == ASK) && arguments.next().is_none();
    is_asked.then(|| page(command(), section))
}

/// A program's man page, in man(7).
pub fn page(command: Command, section: u8) -> String {
    let version = command.get_version().unwrap_or_default().to_owned();
    roff::page(&entries(command), section, &version)
}

/// Set to anything, the file is written instead of compared.
pub const WRITE: &str = "MARCHPROXY_WRITE_DOCS";

/// Every command says what it does and shows an example of itself, and the reference says of the program what it says now. Returns what is
/// wrong.
pub fn check(command: Command, root: &Path) -> Result<(), String> {
    let name = command.get_name().to_owned();
    let entries = entries(command);
    for entry in &entries {
        let example = entry.after.contains("Example") && entry.after.contains(&format!("{name} "));
        if entry.about.is_empty() || !example {
            return Err(format!("{}: its help says nothing about it, or has no example", entry.path));
        }
    }
    let reference = root.join("docs/cli.md");
    let text = fs::read_to_string(&reference).map_err(|why| format!("{}: {why}", reference.display()))?;
    let whole = replaced(&text, &name, &markdown::section(&entries))?;
    settle(&reference, &whole)
}

/// The text with what stands between the program's marks replaced.
fn replaced(text: &str, name: &str, section: &str) -> Result<String, String> {
    let [begin, end] = ["begin", "end"].map(|word| format!("<!-- {word} {name} -->\n"));
    let parts = text.split_once(&begin).and_then(|(before, rest)| Some((before, rest.split_once(&end)?.1)));
    let (before, behind) = parts.ok_or_else(|| format!("docs/cli.md: no marks {} and {}", begin.trim(), end.trim()))?;
    Ok(format!("{before}{begin}\n{section}\n{end}{behind}"))
}

/// Compares, or writes where that is asked for.
fn settle(path: &Path, wanted: &str) -> Result<(), String> {
    if fs::read_to_string(path).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    if std::env::var_os(WRITE).is_none() {
        return Err(format!("{} is not what the program says; {WRITE}=1 cargo test manual writes it", path.display()));
    }
    fs::write(path, wanted).map_err(|why| format!("{}: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Arg;

    fn command() -> Command {
        let go = Command::new("go")
            .about("Go there")
            .after_help("Example:\n  tool go far")
            .arg(Arg::new("where").help("Where"));
        let speed =
            Arg::new("speed").long("speed").short('s').value_name("N").default_value("3").help("How fast").global(true);
        Command::new("tool")
            .version("1")
            .about("A tool")
            .after_help("Example:\n  tool go -s 2 far\n  .odd")
            .arg(speed)
            .subcommand(go)
    }

    #[test]
    fn every_command_is_there_with_its_own_options() {
        let entries = entries(command());
        let paths: Vec<&str> = entries.iter().map(|entry| entry.path.as_str()).collect();
        assert_eq!(paths, ["tool", "tool go"]);
        assert_eq!(entries[0].options[0].spelled, "-s, --speed <N>");
        assert_eq!(entries[0].options[0].help, "How fast [default: 3]");
        assert_eq!(entries[1].options.len(), 1, "what is global stands at the top alone");
        let section = markdown::section(&entries);
        assert!(section.contains("## tool\n") && section.contains("### tool go\n"), "{section}");
        let page = page(command(), 1);
        assert!(page.starts_with(".TH TOOL 1 \"\" \"MarchProxy 1\" MarchProxy\n"), "{page}");
        assert!(
            page.contains(".SS tool go\n") && page.contains("\\-\\-speed") && page.contains("\n  .odd\n.fi\n"),
            "{page}"
        );
    }

    #[test]
    fn a_section_is_put_between_its_marks() {
        let text = "# a\n<!-- begin tool -->\nold\n<!-- end tool -->\nb\n";
        assert_eq!(replaced(text, "tool", "new").unwrap(), "# a\n<!-- begin tool -->\n\nnew\n<!-- end tool -->\nb\n");
        assert!(replaced(text, "other", "new").is_err());
    }
}
