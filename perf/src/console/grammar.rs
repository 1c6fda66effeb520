//! What may be typed. One list of words serves parsing, help and completion.

use clap::ValueEnum;
use marchproxy_engine::burst::BURST;

use crate::Error;
use crate::scenario::Scenario;

/// A command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Start,
    Stop,
    Forward(Scenario),
    Burst(usize),
    ShowPorts,
    ShowForward,
    ShowConfig,
    ClearPorts,
    ClearForward,
    ClearAll,
    Help,
    Quit,
}

/// Shown by `help`.
pub const HELP: &str = "\
start                  forward
stop                   stop forwarding, print its statistics
set fwd SCENARIO       forward, forward6, balance, rules, police, mark, full or new_sessions;
                       while stopped
set burst N            packets asked for in a receive call, 1 to 32; while stopped
show port stats all    what the ports counted since they were cleared, and rates since last shown
show fwd stats all     what the node did since start: packets, drops by reason, cycles
show config            what is set
clear port stats all   count from zero
clear fwd stats all    likewise
clear                  both
quit                   stop and leave; so do the end of input and Ctrl-C";

/// Commands without a value of their own.
const FIXED: [(&str, Order); 11] = [
    ("start", Order::Start),
    ("stop", Order::Stop),
    ("show port stats all", Order::ShowPorts),
    ("show fwd stats all", Order::ShowForward),
    ("show config", Order::ShowConfig),
    ("clear port stats all", Order::ClearPorts),
    ("clear fwd stats all", Order::ClearForward),
    ("clear", Order::ClearAll),
    ("help", Order::Help),
    ("quit", Order::Quit),
    ("exit", Order::Quit),
];

/// Reads a line; `None` for one without a command.
pub fn parse(line: &str) -> Result<Option<Order>, Error> {
    let words: Vec<&str> = line.split('#').next().unwrap_or_default().split_whitespace().collect();
    let refuse =
        |allowed: String| Error::Command { command: words.join(" "), found: "no such command".into(), allowed };
    match words.as_slice() {
        [] => Ok(None),
        ["set", "fwd", name] => match Scenario::from_str(name, true) {
            Ok(scenario) => Ok(Some(Order::Forward(scenario))),
            Err(_) => Err(refuse(format!("set fwd {}", labels().join(" | ")))),
        },
        ["set", "burst", number] => match number.parse() {
            Ok(burst) if (1..=BURST).contains(&burst) => Ok(Some(Order::Burst(burst))),
            _ => Err(refuse(format!("set burst 1 to {BURST}"))),
        },
        _ => {
            let joined = words.join(" ");
            let known = FIXED.iter().find(|(text, _)| *text == joined).map(|(_, order)| *order);
            known.map(Some).ok_or_else(|| refuse("what `help` lists".into()))
        }
    }
}

/// The words that may come next after the line so far, whose last word may be begun. With them where that word begins.
pub fn complete(line: &str) -> (usize, Vec<String>) {
    let start = line.rfind(' ').map_or(0, |at| at + 1);
    let before: Vec<&str> = line[..start].split_whitespace().collect();
    let begun = &line[start..];
    let set = labels().into_iter().map(|label| format!("set fwd {label}")).chain(["set burst".to_owned()]);
    let all = FIXED.iter().map(|(text, _)| (*text).to_owned()).chain(set);
    let mut next: Vec<String> = all
        .filter_map(|text| {
            let words: Vec<&str> = text.split(' ').collect();
            let word = words.get(before.len())?;
            (words.starts_with(&before) && word.starts_with(begun)).then(|| (*word).to_owned())
        })
        .collect();
    next.sort_unstable();
    next.dedup();
    (start, next)
}

fn labels() -> Vec<&'static str> {
    Scenario::value_variants().iter().map(|scenario| scenario.label()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_and_refused() {
        for (line, order) in FIXED {
            assert_eq!(parse(&format!("  {} # why", line.replace(' ', "  "))).unwrap(), Some(order));
        }
        assert_eq!(parse("set fwd full").unwrap(), Some(Order::Forward(Scenario::Full)));
        assert_eq!(parse("set burst 1").unwrap(), Some(Order::Burst(1)));
        assert_eq!(parse(" # only a comment").unwrap(), None);
        for (line, word) in
            [("set fwd io", "forward6"), ("set burst 33", "1 to 32"), ("set burst x", "1 to 32"), ("start now", "help")]
        {
            let error = parse(line).unwrap_err().to_string();
            assert!(error.contains(line) && error.contains(word), "{error}");
        }
    }

    #[test]
    fn help_lists_what_is_read() {
        for (line, _) in FIXED.iter().filter(|(line, _)| *line != "exit") {
            assert!(HELP.contains(line) || *line == "help", "{line}");
        }
        assert!(labels().iter().all(|label| HELP.contains(label)));
    }

    #[test]
    fn words_are_completed() {
        assert_eq!(complete("sh"), (0, vec!["show".into()]));
        assert_eq!(complete("show "), (5, vec!["config".into(), "fwd".into(), "port".into()]));
        assert_eq!(complete("set fwd forw"), (8, vec!["forward".into(), "forward6".into()]));
        assert_eq!(complete("set burst "), (10, Vec::new()));
        assert!(complete("").1.contains(&"quit".to_owned()));
    }
}
