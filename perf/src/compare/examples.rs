//! Example programs of DPDK, built from the distribution's source package of the very DPDK that is installed. Source and programs stay in
//! a scratch folder; nothing of them is kept in the repository.

use std::ffi::OsString;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::apt::{Apt, addresses};
use super::child::{Child, find};
use crate::Error;
use crate::progress::Progress;

/// How long apt and the compiler may take.
const PATIENCE: Duration = Duration::from_mins(10);

/// Tools that are needed beside a compiler, and the package that brings each.
const TOOLS: [(&str, &str); 4] =
    [("apt-get", "apt"), ("dpkg-source", "dpkg-dev"), ("make", "make"), ("pkg-config", "pkg-config")];

/// A change to an example before it is built: words that must be there, and what takes their place.
#[derive(Clone, Copy, Debug, Hash)]
pub struct Edit {
    /// File in the example's folder.
    pub file: &'static str,
    /// What is there.
    pub from: &'static str,
    /// What shall be.
    pub to: &'static str,
}

/// The executable of an example, built where it is not there yet. `folder` is for logs and half-built things.
pub fn build(name: &str, edits: &[Edit], folder: &Path, progress: &Progress) -> Result<PathBuf, Error> {
    let version = installed(folder, progress)?;
    let cache = cache()?.join(format!("dpdk-{version}"));
    let mut hasher = DefaultHasher::new();
    edits.hash(&mut hasher);
    let program = cache.join(format!("{name}-{:016x}", hasher.finish()));
    if program.is_file() {
        return Ok(program);
    }
    for (tool, package) in TOOLS {
        find(tool)
            .ok_or_else(|| Error::Peer(format!("{tool} is not installed (Debian package {package}); {REMEDY}")))?;
    }
    let system = |what: &str| {
        let what = format!("{what} {}", cache.display());
        move |source| Error::System { what, source }
    };
    fs::create_dir_all(&cache).map_err(system("making"))?;
    let source = source(&version, &cache, folder, progress)?;
    progress.phase("building an example of DPDK", 0);
    // In a folder of this run: two runs may build at the same time.
    let work = folder.join(format!("build-{name}"));
    fs::create_dir_all(&work).map_err(system("making a folder beside"))?;
    for part in [name, "common"] {
        let copy = [source.join(part).display().to_string(), work.display().to_string()];
        tool("cp", ["-r".into()].into_iter().chain(copy), folder, progress)?;
    }
    for edit in edits {
        apply(&work.join(name), edit, &version)?;
    }
    // The last -march counts, and the Makefile's own, from the distribution's pkg-config, is older than what our code is built for.
    let arguments = ["-C".into(), work.join(name).display().to_string(), "shared".into(), architecture()];
    tool("make", arguments, folder, progress)?;
    // A rename within one file system happens at once or not at all.
    let built = cache.join(format!("{name}.{}", std::process::id()));
    fs::copy(work.join(name).join("build").join(name), &built).map_err(system("copying into"))?;
    fs::rename(&built, &program).map_err(system("renaming in"))?;
    Ok(program)
}

/// What brings what is missing.
const REMEDY: &str = "`scripts/setup --peers` installs what the examples of DPDK are built with";

/// The version of the source package that the installed libdpdk-dev was built from.
fn installed(folder: &Path, progress: &Progress) -> Result<String, Error> {
    let query = ["-W", "-f", "${source:Version}", "libdpdk-dev"].map(String::from);
    let version = tool("dpkg-query", query, folder, progress).unwrap_or_default();
    if version.is_empty() {
        return Err(Error::Peer(format!("libdpdk-dev is not installed as a package; {REMEDY}")));
    }
    Ok(version)
}

/// Where source and programs stay. The programs are run, by root as a rule, so nobody else may be able to put one there.
fn cache() -> Result<PathBuf, Error> {
    let me = nix::unistd::geteuid().as_raw();
    let folder = place(|name| std::env::var_os(name), me);
    // The XDG base directory specification wants folders that are missing made for their user alone.
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(|source| {
        let what = format!("making the folder {} for programs to compare with", folder.display());
        Error::System { what, source }
    })?;
    private(&folder, me)?;
    Ok(folder)
}

/// The user's cache by the XDG base directory specification (which has relative paths ignored), else a folder of the user in /var/tmp,
/// which outlives a boot.
fn place(variable: impl Fn(&str) -> Option<OsString>, me: u32) -> PathBuf {
    let set = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    cache.map_or_else(|| format!("/var/tmp/marchproxy-peers-{me}").into(), |cache| cache.join("marchproxy-peers"))
}

/// Refuses a folder that somebody else could put a program into. A link is refused, too: whoever made it chose the place.
fn private(folder: &Path, me: u32) -> Result<(), Error> {
    let facts = fs::symlink_metadata(folder);
    let facts = facts.map_err(|source| Error::System { what: format!("looking at {}", folder.display()), source })?;
    let mode = facts.mode() & 0o7777;
    if facts.is_dir() && facts.uid() == me && mode & 0o022 == 0 {
        return Ok(());
    }
    let kind = if facts.is_dir() { "a folder" } else { "no folder" };
    Err(Error::Peer(format!(
        "programs are run from {}: found {kind} of user {} with mode {mode:04o}, allowed a folder of user {me} that nobody else may write \
         to; remove it, or name another place with XDG_CACHE_HOME",
        folder.display(),
        facts.uid()
    )))
}

/// The folder of examples in the source package, fetched where it is not there yet.
fn source(version: &str, cache: &Path, folder: &Path, progress: &Progress) -> Result<PathBuf, Error> {
    let examples = cache.join("examples");
    if examples.is_dir() {
        return Ok(examples);
    }
    progress.phase("fetching the source of DPDK", 0);
    let refused = |source| Error::System { what: "a private state for apt".into(), source };
    let madison = tool("apt-cache", ["madison".into(), "dpdk".into()], folder, progress).unwrap_or_default();
    let apt = Apt::new(&folder.join("apt"), &addresses(&madison)).map_err(refused)?;
    let download = folder.join("source");
    fs::create_dir_all(&download).map_err(refused)?;
    let get = |words: &[&str]| {
        let chdir = ["-C".into(), download.display().to_string(), "apt-get".into(), "-q".into()];
        chdir.into_iter().chain(apt.options()).chain(words.iter().map(|&word| word.into())).collect::<Vec<_>>()
    };
    // A source that is out of reach must not matter while another one has the package.
    let update = tool("env", get(&["update"]), folder, progress);
    let fetched = tool("env", get(&["source", "--only-source", &format!("dpdk={version}")]), folder, progress);
    fetched.map_err(|error| match update {
        Err(update) => Error::Peer(format!("the source of DPDK {version} cannot be had: {update}; {error}")),
        Ok(_) => Error::Peer(format!("the source of DPDK {version} cannot be had: {error}")),
    })?;
    let unpacked = fs::read_dir(&download).map_err(refused)?.flatten().map(|entry| entry.path().join("examples"));
    let unpacked = unpacked.into_iter().find(|path| path.is_dir());
    let unpacked = unpacked.ok_or_else(|| Error::Peer(format!("the source of DPDK {version} has no examples")))?;
    // The scratch folder of a run may be on another file system, so copy, then rename.
    let copy = cache.join(format!("examples.{}", std::process::id()));
    let words = ["-r".into(), unpacked.display().to_string(), copy.display().to_string()];
    tool("cp", words, folder, progress)?;
    if fs::rename(&copy, &examples).is_err() {
        // Somebody else was faster.
        let _ = fs::remove_dir_all(&copy);
    }
    Ok(examples)
}

fn apply(example: &Path, edit: &Edit, version: &str) -> Result<(), Error> {
    let path = example.join(edit.file);
    let system = |source| Error::System { what: format!("changing {}", path.display()), source };
    let text = fs::read_to_string(&path).map_err(system)?;
    if !text.contains(edit.from) {
        let file = edit.file;
        return Err(Error::Peer(format!(
            "{file} of DPDK {version} has no `{}`: its example is not one that is known here",
            edit.from
        )));
    }
    fs::write(&path, text.replace(edit.from, edit.to)).map_err(system)
}

/// The variable that makes an example's Makefile build for what our own programs are built for.
fn architecture() -> String {
    let flag = if cfg!(target_arch = "x86_64") { "-march=x86-64-v3" } else { "" };
    format!("LDFLAGS={flag}")
}

/// Runs a tool to its end and returns what it says.
fn tool(
    name: &str,
    arguments: impl IntoIterator<Item = String>,
    folder: &Path,
    progress: &Progress,
) -> Result<String, Error> {
    let path = find(name).ok_or_else(|| Error::Peer(format!("{name} is not installed; {REMEDY}")))?;
    let arguments: Vec<String> = arguments.into_iter().collect();
    Child::start(name, folder, &path, &arguments)?.finish(PATIENCE, progress)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_change_what_they_know_and_refuse_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("main.c"), ".offloads = CHECKSUM,\n.offloads = CHECKSUM,\n").unwrap();
        let edit = Edit { file: "main.c", from: ".offloads = CHECKSUM", to: ".offloads = 0" };
        apply(folder.path(), &edit, "22.11").unwrap();
        assert_eq!(fs::read_to_string(folder.path().join("main.c")).unwrap(), ".offloads = 0,\n.offloads = 0,\n");
        let error = apply(folder.path(), &edit, "25.11").unwrap_err().to_string();
        assert!(error.contains("main.c of DPDK 25.11") && error.contains("CHECKSUM"), "{error}");
        let missing = Edit { file: "no.c", ..edit };
        assert!(apply(folder.path(), &missing, "22.11").unwrap_err().to_string().contains("no.c"));
    }

    #[test]
    fn programs_stay_in_the_cache_of_their_user() {
        let set = |pairs: &'static [(&str, &str)]| {
            place(|name| pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1.into()), 7)
        };
        assert_eq!(set(&[("XDG_CACHE_HOME", "/c"), ("HOME", "/h")]), Path::new("/c/marchproxy-peers"));
        for cache in ["", "relative"] {
            let variables = [("XDG_CACHE_HOME", cache), ("HOME", "/h")];
            let place = place(|name| variables.iter().find(|pair| pair.0 == name).map(|pair| pair.1.into()), 7);
            assert_eq!(place, Path::new("/h/.cache/marchproxy-peers"), "{cache:?}");
        }
        assert_eq!(set(&[]), Path::new("/var/tmp/marchproxy-peers-7"));
    }

    #[test]
    fn a_folder_that_others_can_change_is_refused() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let base = tempfile::tempdir().unwrap();
        let me = nix::unistd::geteuid().as_raw();
        let folder = base.path().join("programs");
        fs::DirBuilder::new().mode(0o700).create(&folder).unwrap();
        private(&folder, me).unwrap();
        let refused = |folder: &Path, user| private(folder, user).unwrap_err().to_string();
        let error = refused(&folder, me + 1);
        assert!(error.contains("programs") && error.contains(&format!("folder of user {}", me + 1)), "{error}");
        for mode in [0o720, 0o702, 0o1777] {
            fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
            let error = refused(&folder, me);
            assert!(error.contains(&format!("mode {mode:04o}")) && error.contains("XDG_CACHE_HOME"), "{error}");
        }
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        private(&folder, me).unwrap();
        symlink(&folder, base.path().join("link")).unwrap();
        assert!(refused(&base.path().join("link"), me).contains("no folder"));
    }
}
