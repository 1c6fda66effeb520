//! Where the distribution keeps its source packages, derived from what apt is configured to use. The system's own configuration is read
//! and not touched: apt gets a state of its own.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where apt's configuration is.
const ETC: &str = "/etc/apt";

/// A private apt state that knows the source packages of the machine's own sources.
#[derive(Debug)]
pub struct Apt(PathBuf);

impl Apt {
    /// Lays it out in a folder. `wanted` are the addresses whose sources count; all of them when it is empty.
    pub fn new(folder: &Path, wanted: &[String]) -> io::Result<Self> {
        for part in ["lists/partial", "cache/archives/partial", "parts"] {
            fs::create_dir_all(folder.join(part))?;
        }
        let lines = fs::read_to_string(format!("{ETC}/sources.list")).unwrap_or_default();
        fs::write(folder.join("sources.list"), one_line(&lines, wanted))?;
        for entry in fs::read_dir(format!("{ETC}/sources.list.d")).into_iter().flatten().flatten() {
            let path = entry.path();
            let text = fs::read_to_string(&path).unwrap_or_default();
            let derived = match path.extension().and_then(|kind| kind.to_str()) {
                Some("list") => one_line(&text, wanted),
                Some("sources") => stanzas(&text, wanted),
                _ => continue,
            };
            if !derived.is_empty() {
                fs::write(folder.join("parts").join(entry.file_name()), derived)?;
            }
        }
        Ok(Self(folder.to_owned()))
    }

    /// The options that make apt use it.
    pub fn options(&self) -> Vec<String> {
        [
            ("Dir::State::lists", "lists"),
            ("Dir::Cache", "cache"),
            ("Dir::Etc::sourcelist", "sources.list"),
            ("Dir::Etc::sourceparts", "parts"),
        ]
        .iter()
        .flat_map(|(option, part)| ["-o".into(), format!("{option}={}", self.0.join(part).display())])
        .collect()
    }
}

/// The addresses in `apt-cache madison PACKAGE`: `NAME | VERSION | ADDRESS SUITE/COMPONENT ...`.
pub fn addresses(madison: &str) -> Vec<String> {
    let address = |line: &str| line.split('|').nth(2)?.split_whitespace().next().map(str::to_owned);
    let mut found: Vec<String> = madison.lines().filter_map(address).collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn counts(address: &str, wanted: &[String]) -> bool {
    let bare = |address: &str| address.trim_end_matches('/').to_owned();
    wanted.is_empty() || wanted.iter().any(|wanted| bare(wanted) == bare(address))
}

/// The `deb` lines of a sources.list(5) file in one-line style, as `deb-src` lines.
fn one_line(text: &str, wanted: &[String]) -> String {
    let derive = |line: &str| {
        let rest = line.trim().strip_prefix("deb ")?.trim();
        // Options in brackets come before the address.
        let behind = if rest.starts_with('[') { rest.split_once(']')?.1 } else { rest };
        let address = behind.split_whitespace().next()?;
        counts(address, wanted).then(|| format!("deb-src {rest}\n"))
    };
    text.lines().filter_map(derive).collect()
}

/// The stanzas of a file in deb822 style that list binary packages and are enabled, made to list source packages.
fn stanzas(text: &str, wanted: &[String]) -> String {
    let mut out = String::new();
    for stanza in text.split("\n\n") {
        let value = |field: &str| {
            stanza.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case(field).then(|| value.trim())
            })
        };
        let binary = value("Types").is_some_and(|types| types.split_whitespace().any(|kind| kind == "deb"));
        let enabled = value("Enabled").is_none_or(|word| !["no", "false", "off", "0"].contains(&word));
        let known = value("URIs").is_some_and(|list| list.split_whitespace().any(|address| counts(address, wanted)));
        if !(binary && enabled && known) {
            continue;
        }
        for line in stanza.lines() {
            let is_types = line.split_once(':').is_some_and(|(name, _)| name.eq_ignore_ascii_case("Types"));
            out.push_str(if is_types { "Types: deb-src" } else { line });
            out.push('\n');
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_source_lines() {
        let text = "# deb http://comment/ a main\ndeb http://deb.debian.org/debian bookworm main contrib\n\
                    deb [signed-by=/k.gpg arch=amd64] http://other/repo stable main\ndeb-src http://x/ y main\n";
        assert_eq!(
            one_line(text, &[]),
            "deb-src http://deb.debian.org/debian bookworm main contrib\n\
             deb-src [signed-by=/k.gpg arch=amd64] http://other/repo stable main\n"
        );
        assert_eq!(
            one_line(text, &["http://deb.debian.org/debian/".into()]),
            "deb-src http://deb.debian.org/debian bookworm main contrib\n"
        );
    }

    #[test]
    fn stanzas_become_source_stanzas() {
        let text = "Types: deb\nURIs: http://deb.debian.org/debian\nSuites: bookworm\nComponents: main\n\
                    Signed-By:\n -----BEGIN PGP\n .\n abc: def\n\nTypes: deb\nURIs: http://off/\nEnabled: no\n\n\
                    Types: deb-src\nURIs: http://deb.debian.org/debian\nSuites: x\n\ntypes: deb deb-src\nURIs: http://other\n";
        let derived = stanzas(text, &[]);
        assert_eq!(derived.matches("Types: deb-src").count(), 2, "{derived}");
        assert!(derived.contains(" .\n abc: def\n") && !derived.contains("http://off/"), "{derived}");
        assert!(!stanzas(text, &["http://deb.debian.org/debian".into()]).contains("http://other"));
        assert_eq!(stanzas("", &[]), "");
    }

    #[test]
    fn the_archive_that_has_the_package_is_known_from_madison() {
        let madison = "      dpdk | 22.11.11-0+deb12u1 | http://deb.debian.org/debian bookworm/main amd64 Packages\n      \
                       dpdk | 22.11.7-1 | http://deb.debian.org/debian-security bookworm-security/main amd64 Packages\n";
        assert_eq!(addresses(madison), ["http://deb.debian.org/debian", "http://deb.debian.org/debian-security"]);
        assert!(addresses("").is_empty());
    }

    #[test]
    fn the_state_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let apt = Apt::new(folder.path(), &[]).unwrap();
        assert!(folder.path().join("lists/partial").is_dir());
        let options = apt.options().join(" ");
        assert_eq!(options.matches(folder.path().to_str().unwrap()).count(), 4, "{options}");
    }
}
