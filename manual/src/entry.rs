//! What there is to say about a command, in plain words.

use std::fmt::Write as _;

use clap::{Arg, Command};

/// A command.
#[derive(Clone, Debug)]
pub struct Entry {
    /// `program command`.
    pub path: String,
    /// How it is called, without the program's usual `Usage:`.
    pub usage: String,
    /// What it does, a paragraph or several.
    pub about: String,
    /// Arguments and options, in their order.
    pub options: Vec<Item>,
    /// Examples and what else its help ends with, as it stands.
    pub after: String,
}

/// An argument or option.
#[derive(Clone, Debug)]
pub struct Item {
    /// `-f, --file <FILE>`.
    pub spelled: String,
    /// What it is for, with its default, values and variable.
    pub help: String,
}

/// The program and its commands, a command before those below it. Hidden ones and `help` are left out.
pub fn entries(mut command: Command) -> Vec<Entry> {
    command.build();
    let mut entries = Vec::new();
    walk(&mut command, "", &mut entries);
    entries
}

fn walk(command: &mut Command, above: &str, entries: &mut Vec<Entry>) {
    let path = format!("{above} {}", command.get_name()).trim().to_owned();
    let usage = command.render_usage().to_string();
    let usage: Vec<&str> = usage.trim_start_matches("Usage:").lines().map(str::trim).collect();
    let is_top = above.is_empty();
    let shown = |arg: &&Arg| {
        !arg.is_hide_set() && !matches!(arg.get_id().as_str(), "help" | "version") && (is_top || !arg.is_global_set())
    };
    let about = command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
    entries.push(Entry {
        usage: usage.join("\n"),
        about,
        options: command.get_arguments().filter(shown).map(option).collect(),
        after: command.get_after_help().map(ToString::to_string).unwrap_or_default(),
        path: path.clone(),
    });
    for below in command.get_subcommands_mut() {
        if !below.is_hide_set() && below.get_name() != "help" {
            walk(below, &path, entries);
        }
    }
}

fn option(arg: &Arg) -> Item {
    let names: Vec<&str> = arg.get_value_names().unwrap_or_default().iter().map(clap::builder::Str::as_str).collect();
    let takes_values = arg.get_action().takes_values();
    let value = names.iter().map(|name| format!("<{name}>")).collect::<Vec<_>>().join(" ");
    let mut spelled: Vec<String> = Vec::new();
    spelled.extend(arg.get_short().map(|short| format!("-{short}")));
    spelled.extend(arg.get_long().map(|long| format!("--{long}")));
    let spelled = match (spelled.is_empty(), takes_values) {
        (true, _) => value,
        (false, true) => format!("{} {value}", spelled.join(", ")),
        (false, false) => spelled.join(", "),
    };
    let mut help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
    let mut add = |what: &str, values: Vec<String>| {
        if !values.is_empty() {
            let _ = write!(help, " [{what}: {}]", values.join(", "));
        }
    };
    if takes_values {
        let possible = arg.get_possible_values();
        add("values", possible.iter().filter(|v| !v.is_hide_set()).map(|v| v.get_name().to_owned()).collect());
        if !arg.is_hide_default_value_set() {
            let defaults = arg.get_default_values().iter().map(|value| value.to_string_lossy().into_owned());
            add("default", defaults.filter(|value| !value.is_empty()).collect());
        }
    }
    add("variable", arg.get_env().iter().map(|name| name.to_string_lossy().into_owned()).collect());
    Item { spelled, help }
}
