//! The walls between the crates: who may depend on whom, and where unsafe code may stand.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Everything the engine may pull in, directly or not. Adding a name here is a decision about the hot path.
const ENGINE_MAY_USE: &[&str] = &[
    "marchproxy-engine",
    "marchproxy-cpu",
    "marchproxy-rcu",
    "arrayvec",
    "bytemuck",
    "bytemuck_derive",
    "libc",
    "rtrb",
    "thiserror",
    "thiserror-impl",
    // TCP of the health checks, on the slow path alone; no allocation of a worker and no socket of the kernel. See ARCHITECTURE.md.
    "smoltcp",
    "bitflags",
    "byteorder",
    "cfg-if",
    "hash32",
    "heapless",
    "managed",
    "stable_deref_trait",
    // Not built: cargo's metadata list them because of smoltcp's `defmt?/alloc`.
    "defmt",
    "defmt-macros",
    "defmt-parser",
    // Compile-time only, behind the derives.
    "proc-macro2",
    "quote",
    "syn",
    "unicode-ident",
];

/// Direct dependencies on our own crates, by crate. What is not listed is not allowed.
const OWN_DEPENDENCIES: &[(&str, &[&str])] = &[
    ("marchproxy-cpu", &[]),
    ("marchproxy-manual", &[]),
    ("marchproxy-rcu", &[]),
    ("marchproxy-metrics", &[]),
    ("marchproxy-dpdk-sys", &[]),
    ("marchproxy-engine", &["marchproxy-cpu", "marchproxy-rcu"]),
    ("marchproxy-dpdk", &["marchproxy-dpdk-sys", "marchproxy-engine", "marchproxy-cpu"]),
    ("marchproxy-xdp", &["marchproxy-engine"]),
    ("marchproxy-sockets", &["marchproxy-engine"]),
    ("marchproxy-proto", &["marchproxy-engine"]),
    ("marchproxy-control", &["marchproxy-engine", "marchproxy-manual", "marchproxy-metrics", "marchproxy-proto"]),
    (
        "marchproxy-dataplane",
        &[
            "marchproxy-engine",
            "marchproxy-rcu",
            "marchproxy-cpu",
            "marchproxy-manual",
            "marchproxy-metrics",
            "marchproxy-dpdk",
            "marchproxy-sockets",
            "marchproxy-xdp",
            "marchproxy-proto",
        ],
    ),
    (
        "marchproxy-perf",
        &[
            "marchproxy-engine",
            "marchproxy-rcu",
            "marchproxy-cpu",
            "marchproxy-manual",
            "marchproxy-dpdk",
            "marchproxy-sockets",
            "marchproxy-proto",
            "marchproxy-control",
        ],
    ),
    (
        "marchproxy-tests",
        &["marchproxy-engine", "marchproxy-proto", "marchproxy-control", "marchproxy-cpu", "marchproxy-dataplane"],
    ),
];

/// Where unsafe code may stand.
const UNSAFE_HOMES: [&str; 2] = ["ffi", "bpf-fallback"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--all-features", "--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn members(metadata: &Value) -> Vec<&Value> {
    let ids: BTreeSet<&str> =
        metadata["workspace_members"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
    let packages = metadata["packages"].as_array().unwrap();
    packages.iter().filter(|p| ids.contains(p["id"].as_str().unwrap())).collect()
}

#[test]
fn the_engine_pulls_in_only_what_is_listed() {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().unwrap();
    let names: BTreeMap<&str, &str> =
        packages.iter().map(|p| (p["id"].as_str().unwrap(), p["name"].as_str().unwrap())).collect();
    let nodes: BTreeMap<&str, &Value> =
        metadata["resolve"]["nodes"].as_array().unwrap().iter().map(|n| (n["id"].as_str().unwrap(), n)).collect();
    let start = names.iter().find(|(_, name)| **name == "marchproxy-engine").unwrap().0;
    let (mut todo, mut reached) = (vec![*start], BTreeSet::new());
    while let Some(id) = todo.pop() {
        if !reached.insert(names[id]) {
            continue;
        }
        for dependency in nodes[id]["deps"].as_array().unwrap() {
            // Normal dependencies only: kind null, and no foreign target (loom is behind cfg(loom)).
            let counts =
                |kind: &Value| kind["kind"].is_null() && kind["target"].as_str().is_none_or(|t| !t.contains("loom"));
            if dependency["dep_kinds"].as_array().unwrap().iter().any(counts) {
                todo.push(dependency["pkg"].as_str().unwrap());
            }
        }
    }
    let extra: Vec<_> = reached.iter().filter(|name| !ENGINE_MAY_USE.contains(name)).collect();
    assert!(extra.is_empty(), "the engine's dependency tree grew by {extra:?}");
}

#[test]
fn crates_depend_only_downwards() {
    let metadata = metadata();
    let allowed: BTreeMap<_, _> = OWN_DEPENDENCIES.iter().copied().collect();
    for package in members(&metadata) {
        let name = package["name"].as_str().unwrap();
        let allowed = allowed.get(name).unwrap_or_else(|| panic!("{name} is not in OWN_DEPENDENCIES"));
        for dependency in package["dependencies"].as_array().unwrap() {
            let other = dependency["name"].as_str().unwrap();
            let own = other.starts_with("marchproxy-") && other != name;
            // A test may use what its crate may not.
            if own && dependency["kind"].as_str() != Some("dev") {
                assert!(allowed.contains(&other), "{name} depends on {other}");
            }
        }
    }
}

#[test]
fn crate_roots_forbid_unsafe_code() {
    let metadata = metadata();
    let mut seen = 0;
    for package in members(&metadata) {
        let manifest = Path::new(package["manifest_path"].as_str().unwrap());
        if in_unsafe_home(manifest) {
            continue;
        }
        for target in package["targets"].as_array().unwrap() {
            let kinds: Vec<_> = target["kind"].as_array().unwrap().iter().map(|k| k.as_str().unwrap()).collect();
            if kinds.iter().any(|k| matches!(*k, "lib" | "bin")) {
                let file = target["src_path"].as_str().unwrap();
                let source = std::fs::read_to_string(file).unwrap();
                assert!(source.contains("#![forbid(unsafe_code)]"), "{file} does not forbid unsafe code");
                seen += 1;
            }
        }
    }
    assert!(seen >= 8, "only {seen} crate roots found");
}

#[test]
fn unsafe_stays_home_and_says_why_it_is_sound() {
    let mut blocks = 0;
    for file in rust_files() {
        let source = std::fs::read_to_string(root().join(&file)).unwrap();
        let lines: Vec<&str> = source.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            if !has_unsafe(line) {
                continue;
            }
            assert!(
                in_unsafe_home(&root().join(&file)),
                "{}:{}: unsafe outside of ffi/ and bpf-fallback/",
                file,
                number + 1
            );
            blocks += 1;
            assert!(explained(&lines, number), "{}:{}: unsafe without a `// SAFETY:` comment", file, number + 1);
        }
    }
    assert!(blocks > 10, "only {blocks} unsafe places found: is the search broken?");
}

fn in_unsafe_home(file: &Path) -> bool {
    let root = root();
    UNSAFE_HOMES.iter().any(|home| file.starts_with(root.join(home)))
}

fn rust_files() -> Vec<String> {
    let output = Command::new("git").args(["ls-files", "*.rs"]).current_dir(root()).output().unwrap();
    let files: Vec<String> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    assert!(files.len() > 50, "git lists only {} files", files.len());
    files.into_iter().filter(|f| root().join(f).exists()).collect()
}

/// `unsafe {`, `unsafe impl`, `unsafe fn` in code, not in comments, strings or attributes.
fn has_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or("");
    let unescaped = code.replace("\\\"", "");
    let outside_strings = unescaped.split('"').step_by(2).collect::<String>();
    ["unsafe {", "unsafe impl", "unsafe fn", "unsafe extern"].iter().any(|word| outside_strings.contains(word))
}

/// A SAFETY comment on the line, or in the comment block above it (attributes in between allowed).
fn explained(lines: &[&str], number: usize) -> bool {
    let is_comment_or_attribute =
        |line: &str| line.trim_start().starts_with("//") || line.trim_start().starts_with("#[");
    // A statement may begin some lines above its block.
    let mut at = number;
    let mut code_lines = 0;
    loop {
        let line = lines[at];
        if line.contains("SAFETY:") || line.contains("# Safety") {
            return true;
        }
        if !is_comment_or_attribute(line) {
            code_lines += 1;
        }
        if at == 0 || code_lines > 4 {
            return false;
        }
        at -= 1;
    }
}

#[test]
fn the_search_for_unsafe_finds_what_it_should() {
    assert!(has_unsafe("    let x = unsafe { f() };"));
    assert!(has_unsafe("unsafe impl Send for X {}"));
    assert!(!has_unsafe("// unsafe { f() }"));
    assert!(!has_unsafe("#![forbid(unsafe_code)]"));
    assert!(!has_unsafe("\"unsafe { }\""));
    assert!(explained(&["// SAFETY: always.", "unsafe { f() }"], 1));
    assert!(!explained(&["a();", "b();", "c();", "d();", "unsafe { f() }"], 4));
}
