//! What is known of the nodes: two looks at each, so that there are rates, and since when there is no newer one.

use std::time::{Duration, Instant};

use super::source::{Look, Round};
use crate::failure::Failure;
use crate::out::Tone;
use crate::stats::health;

/// A node.
#[derive(Debug)]
pub struct Node {
    /// Its name; empty for a local node that never answered.
    pub name: String,
    /// The look before the last.
    before: Option<Look>,
    /// The last look and when it was.
    now: Option<(Look, Instant)>,
    /// Why there is no newer one.
    pub trouble: Option<String>,
}

impl Node {
    /// The last two looks; a single one stands for both, so that its rates are 0.
    pub fn looks(&self) -> Option<(&Look, &Look)> {
        let (now, _) = self.now.as_ref()?;
        Some((self.before.as_ref().unwrap_or(now), now))
    }

    /// For how long it has not answered, where it ever did.
    pub fn stale(&self, now: Instant) -> Option<Duration> {
        let (_, at) = self.now.as_ref()?;
        self.trouble.is_some().then(|| now.saturating_duration_since(*at))
    }

    /// In a word, and everything worth saying about it.
    pub fn verdict(&self) -> (&'static str, Tone, Vec<(Tone, String)>) {
        let mut findings = Vec::new();
        if let Some(trouble) = &self.trouble {
            findings.push((Tone::Bad, trouble.clone()));
        }
        let Some((before, now)) = self.looks() else { return ("unknown", Tone::Bad, findings) };
        findings.extend(health::findings(&before.stats, &now.stats));
        if self.trouble.is_some() {
            ("stale", Tone::Bad, findings)
        } else if findings.iter().any(|(tone, _)| *tone == Tone::Bad) {
            ("in trouble", Tone::Bad, findings)
        } else if findings.is_empty() {
            ("healthy", Tone::Good, findings)
        } else {
            ("worth a look", Tone::Warn, findings)
        }
    }
}

/// All nodes.
#[derive(Debug, Default)]
pub struct Fleet {
    /// In the order in which they were first named.
    pub nodes: Vec<Node>,
    /// Why nobody could be asked in the last round.
    pub trouble: Option<String>,
}

impl Fleet {
    /// Takes what a round brought. A node that was named before and is not now stays, as one that has gone.
    pub fn take(&mut self, round: Round, at: Instant) {
        let round = match round {
            Ok(round) => {
                self.trouble = None;
                round
            }
            Err(trouble) => {
                for node in &mut self.nodes {
                    node.trouble = Some(trouble.clone());
                }
                self.trouble = Some(trouble);
                return;
            }
        };
        for node in &mut self.nodes {
            // The local node's name is known only once it answered.
            let named = round.iter().any(|(name, look)| *name == node.name || (name.is_empty() && look.is_err()));
            if !named {
                node.trouble = Some("no longer in the document".to_owned());
            }
        }
        for (name, look) in round {
            if name.is_empty() && look.is_err() && !self.nodes.is_empty() {
                let trouble = look.err();
                self.nodes.iter_mut().for_each(|node| node.trouble.clone_from(&trouble));
                continue;
            }
            self.nodes.retain(|node| !node.name.is_empty() || name.is_empty());
            let place = self.nodes.iter().position(|node| node.name == name).unwrap_or_else(|| {
                self.nodes.push(Node { name, before: None, now: None, trouble: None });
                self.nodes.len() - 1
            });
            let node = &mut self.nodes[place];
            match look {
                Ok(look) => {
                    node.before = node.now.take().map(|(look, _)| look);
                    node.now = Some((look, at));
                    node.trouble = None;
                }
                Err(trouble) => node.trouble = Some(trouble),
            }
        }
    }

    /// Fails where nobody answers at all.
    pub fn anybody(&self) -> Result<(), Failure> {
        if let Some(trouble) = &self.trouble {
            return Err(Failure::Unreachable(trouble.clone()));
        }
        if self.nodes.is_empty() {
            return Err(Failure::refused(
                "no node in the document and none connected; see `marchctl node token --help`",
            ));
        }
        if self.nodes.iter().all(|node| node.now.is_none()) {
            let all: Vec<String> = self.nodes.iter().map(trouble).collect();
            return Err(Failure::Unreachable(all.join("; ")));
        }
        Ok(())
    }

    /// Fails where some nodes did not answer.
    pub fn judged(&self) -> Result<(), Failure> {
        self.anybody()?;
        let troubled: Vec<String> = self.nodes.iter().filter(|node| node.trouble.is_some()).map(trouble).collect();
        if troubled.is_empty() { Ok(()) } else { Err(Failure::Partly(troubled.join("; "))) }
    }
}

fn trouble(node: &Node) -> String {
    let name = if node.name.is_empty() { "the node" } else { &node.name };
    format!("{name}: {}", node.trouble.as_deref().unwrap_or("no answer"))
}
