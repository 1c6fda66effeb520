//! Reads a profile that callgrind wrote (format: valgrind's manual, "Callgrind Format Specification"; one event, positions by line).

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// What the instructions of a profile were spent on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// All of them.
    pub total: u64,
    /// Those inside calls to the harness's queues, callees included.
    pub io: u64,
    /// Without callees, by part of the program: `file in function`. Library code that the compiler inlined belongs to the file of ours
    /// that called it.
    pub parts: BTreeMap<String, u64>,
}

/// Functions whose calls are IO and not the engine's own work.
const QUEUES: [&str; 2] = ["TimedRx", "TimedTx"];

/// Reads a profile. `root` is where our own source files are.
pub fn parse(text: &str, root: &Path) -> Result<Profile, String> {
    let mut reader = Reader { root, ..Reader::default() };
    for (number, line) in text.lines().enumerate() {
        reader.line(line).ok_or_else(|| format!("line {}: found {line:?}", number + 1))?;
    }
    let Reader { profile, sum, .. } = reader;
    // Neither a cut file nor one of another kind passes.
    let counted: u64 = profile.parts.values().sum();
    if profile.total == 0 || sum != profile.total || counted != sum {
        return Err(format!("its lines sum up to {sum}, its summary says {}", profile.total));
    }
    Ok(profile)
}

#[derive(Default)]
struct Names(HashMap<String, String>);

impl Names {
    /// `(7) name` gives the number a name, `(7)` repeats it; without a number it is the name itself.
    fn resolve(&mut self, text: &str) -> String {
        let Some((number, name)) = text.strip_prefix('(').and_then(|rest| rest.split_once(')')) else {
            return text.to_owned();
        };
        match name.trim() {
            "" => self.0.get(number).cloned().unwrap_or_default(),
            name => {
                self.0.insert(number.to_owned(), name.to_owned());
                name.to_owned()
            }
        }
    }
}

struct Reader<'a> {
    root: &'a Path,
    profile: Profile,
    sum: u64,
    files: Names,
    functions: Names,
    /// Function of the lines that follow, and the part they count for.
    function: String,
    part: String,
    /// The last file of ours in this function.
    own: Option<String>,
    callee: String,
    /// The next line is the inclusive cost of a call.
    call: bool,
}

impl Default for Reader<'_> {
    fn default() -> Self {
        Self {
            root: Path::new(""),
            profile: Profile::default(),
            sum: 0,
            files: Names::default(),
            functions: Names::default(),
            function: String::new(),
            part: String::new(),
            own: None,
            callee: String::new(),
            call: false,
        }
    }
}

impl Reader<'_> {
    /// `None` when the line makes no sense.
    fn line(&mut self, line: &str) -> Option<()> {
        if line.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '*')) {
            let mut words = line.split_ascii_whitespace().skip(1);
            // A line without a figure costs nothing.
            let cost = words.next().map_or(Some(0), |word| word.parse().ok())?;
            self.cost(cost);
            return Some(());
        }
        let Some((key, value)) = line.split_once('=') else {
            if let Some(total) = line.strip_prefix("summary:") {
                self.profile.total = total.trim().parse().ok()?;
            }
            return Some(());
        };
        match key {
            "fl" | "fi" | "fe" => {
                let file = self.files.resolve(value);
                if key == "fl" {
                    self.own = None;
                }
                self.enter(&file);
            }
            "fn" => {
                self.function = short(&self.functions.resolve(value));
                self.label();
            }
            // Names may be given their numbers here, too.
            "cfi" | "cfl" => drop(self.files.resolve(value)),
            "cfn" => self.callee = self.functions.resolve(value),
            "calls" => self.call = true,
            _ => {}
        }
        Some(())
    }

    fn cost(&mut self, cost: u64) {
        if std::mem::take(&mut self.call) {
            if is_queue(&self.callee) && !is_queue(&self.function) {
                self.profile.io += cost;
            }
            return;
        }
        self.sum += cost;
        match self.profile.parts.get_mut(&self.part) {
            Some(part) => *part += cost,
            None => drop(self.profile.parts.insert(self.part.clone(), cost)),
        }
    }

    fn enter(&mut self, file: &str) {
        if let Ok(own) = Path::new(file).strip_prefix(self.root) {
            self.own = Some(own.display().to_string());
        }
        self.label();
    }

    fn label(&mut self) {
        self.part = match &self.own {
            Some(file) => format!("{file} in {}", self.function),
            None => self.function.clone(),
        };
    }
}

fn is_queue(function: &str) -> bool {
    QUEUES.iter().any(|queue| function.contains(queue))
}

/// A function's name without what every name here has. Callgrind adds `'2` to a function's name below itself.
fn short(name: &str) -> String {
    name.replace("marchproxy_engine::", "").replace("marchproxy_perf::", "")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# callgrind format\nversion: 1\npositions: line\nevents: Ir\nsummary: 111\n\n\
        ob=(1) /bin/x\nfl=(1) /repo/engine/src/pipeline.rs\nfn=(1) marchproxy_engine::pipeline::process\n10 1\n\
        fi=(2) /repo/engine/src/stage/finish.rs\n20 30\nfi=(3) /rustc/abc/core/src/slice.rs\n7 20\nfe=(1)\n11 4\n\
        cfi=(4) /repo/perf/src/backend.rs\ncfn=(2) <marchproxy_perf::backend::TimedRx as RxQueue>::rx_burst\n\
        calls=2 55\n12 56\n12 3\n\n\
        fl=(4)\nfn=(2)\n60 9\n61 3\ncfn=(3) memcpy\ncalls=1 0\n61 41\n\nfl=(5) ???\nfn=(3)\n0 41\n\ntotals: 111\n";

    #[test]
    fn costs_belong_to_the_part_of_ours_that_caused_them() {
        let profile = parse(TEXT, Path::new("/repo/")).unwrap();
        assert_eq!((profile.total, profile.io), (111, 56), "{profile:?}");
        let parts: Vec<_> = profile.parts.iter().map(|(part, cost)| (part.as_str(), *cost)).collect();
        assert_eq!(
            parts,
            [
                ("engine/src/pipeline.rs in pipeline::process", 1 + 4 + 3),
                ("engine/src/stage/finish.rs in pipeline::process", 50),
                ("memcpy", 41),
                ("perf/src/backend.rs in <backend::TimedRx as RxQueue>::rx_burst", 12),
            ]
        );
    }

    #[test]
    fn what_is_no_whole_profile_is_refused() {
        let cut = &TEXT[..TEXT.find("fl=(5)").unwrap()];
        assert!(parse(cut, Path::new("/repo")).unwrap_err().contains("summary says 111"));
        assert!(parse("", Path::new("/repo")).is_err());
        assert!(parse(&TEXT.replace("20 30", "20 x"), Path::new("/repo")).unwrap_err().contains("line 12"));
    }
}
