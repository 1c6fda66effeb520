//! Compiles the XDP program to BPF with clang.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    println!("cargo:rerun-if-changed=src/bpf");
    println!("cargo:rerun-if-env-changed=CLANG");
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            println!("cargo::error={reason}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let variable = |name: &str| std::env::var(name).map_err(|_| format!("{name} is not set: run through cargo"));
    let out = PathBuf::from(variable("OUT_DIR")?);
    let clang = std::env::var("CLANG").unwrap_or_else(|_| "clang".into());
    // The kernel's headers include <asm/types.h>, which Debian keeps by architecture.
    let headers = format!("/usr/include/{}-linux-gnu", variable("CARGO_CFG_TARGET_ARCH")?);
    compile(&clang, &headers, &[], &out.join("marchproxy.bpf.o"))?;
    compile(&clang, &headers, &["-DMEASURE"], &out.join("measure.bpf.o"))
}

fn compile(clang: &str, headers: &str, more: &[&str], object: &Path) -> Result<(), String> {
    let output = Command::new(clang)
        // v3 (kernel 5.1): 32-bit arithmetic and jumps, which halve the work of header fields.
        .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"])
        .args(more)
        .args(["-idirafter", headers, "-c", "src/bpf/marchproxy.bpf.c", "-o"])
        .arg(object)
        .output()
        .map_err(|error| format!("cannot run {clang} ({error}): apt-get install clang llvm libbpf-dev"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    eprintln!("{said}");
    let first = said.lines().find(|line| line.contains("error")).unwrap_or("clang failed");
    Err(format!("{first} (headers come from apt-get install libbpf-dev linux-libc-dev)"))
}
