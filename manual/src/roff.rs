//! A program's man page: one page with a part for each command, as people search it.

use std::fmt::Write as _;

use crate::Entry;

/// Our programs and the sections of their pages.
const PROGRAMS: [(&str, u8); 4] =
    [("marchctl", 1), ("marchproxy-control", 8), ("marchproxy-dataplane", 8), ("marchproxy-perf", 1)];

/// In man(7).
pub fn page(entries: &[Entry], section: u8, version: &str) -> String {
    let Some((program, commands)) = entries.split_first() else { return String::new() };
    let mut text = format!(
        ".TH {} {section} \"\" \"MarchProxy {version}\" MarchProxy\n.SH NAME\n{} \\- {}\n.SH SYNOPSIS\n.nf\n{}\n.fi\n",
        program.path.to_uppercase(),
        program.path,
        escaped(program.about.lines().next().unwrap_or_default()),
        escaped(&program.usage)
    );
    text.push_str(".SH DESCRIPTION\n");
    paragraphs(&mut text, &program.about);
    if !program.options.is_empty() {
        text.push_str(".SH OPTIONS\n");
        options(&mut text, program);
    }
    if !commands.is_empty() {
        text.push_str(".SH COMMANDS\n");
        for command in commands {
            let _ = write!(text, ".SS {}\n.nf\n{}\n.fi\n.PP\n", command.path, escaped(&command.usage));
            paragraphs(&mut text, &command.about);
            options(&mut text, command);
            closing(&mut text, &command.after);
        }
    }
    text.push_str(".SH NOTES\n");
    closing(&mut text, &program.after);
    let others = PROGRAMS.iter().filter(|(name, _)| *name != program.path);
    let others: Vec<String> = others.map(|(name, section)| format!("\\fB{}\\fR({section})", escaped(name))).collect();
    let _ = write!(
        text,
        ".SH SEE ALSO\n{}\n.PP\nThe operator's guide, /usr/share/doc/marchproxy/guide.md\n",
        others.join(", ")
    );
    text
}

fn paragraphs(text: &mut String, about: &str) {
    for paragraph in about.split("\n\n") {
        let _ = writeln!(text, "{}\n.PP", escaped(paragraph));
    }
}

fn options(text: &mut String, entry: &Entry) {
    for option in &entry.options {
        let _ = write!(text, ".TP\n\\fB{}\\fR\n{}\n", escaped(&option.spelled), escaped(&option.help));
    }
}

/// What is indented stands as it is; the rest is text, in lines of its own, that may be wrapped.
fn closing(text: &mut String, after: &str) {
    let mut is_literal = false;
    for line in std::iter::once("").chain(after.trim_end().lines()) {
        let literal = line.starts_with(' ');
        if literal != is_literal {
            text.push_str(if literal { ".nf\n" } else { ".fi\n" });
            is_literal = literal;
        }
        match (line.is_empty(), literal) {
            (true, _) => text.push_str(".PP\n"),
            (false, true) => _ = writeln!(text, "{}", escaped(line)),
            (false, false) => _ = write!(text, "{}\n.br\n", escaped(line)),
        }
    }
    if is_literal {
        text.push_str(".fi\n");
    }
}

/// Nothing is a command or an escape of roff's, and a hyphen is what people type.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    let lines =
        text.lines().map(|line| if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line.to_owned() });
    lines.collect::<Vec<_>>().join("\n")
}
