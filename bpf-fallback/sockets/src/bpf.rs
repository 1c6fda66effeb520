//! The bpf(2) calls this crate makes: maps, small programs, links. Everything is a descriptor and goes away with it.

use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

const MAP_CREATE: libc::c_int = 0;
const MAP_UPDATE: libc::c_int = 2;
const MAP_DELETE: libc::c_int = 3;
const MAP_NEXT_KEY: libc::c_int = 4;
const PROG_LOAD: libc::c_int = 5;
const OBJ_PIN: libc::c_int = 6;
const OBJ_GET: libc::c_int = 7;
#[cfg(test)]
const PROG_TEST_RUN: libc::c_int = 10;
const LINK_CREATE: libc::c_int = 28;
const LINK_UPDATE: libc::c_int = 29;
const LINK_DETACH: libc::c_int = 34;

/// Kinds of maps.
pub(crate) const HASH: u32 = 1;
pub(crate) const XSKMAP: u32 = 17;
/// Hash maps that grow as they fill.
pub(crate) const NO_PREALLOC: u32 = 1;
/// Kinds of programs, and where they are attached.
pub(crate) const CLASSIFIER: u32 = 3;
pub(crate) const XDP: u32 = 6;
pub(crate) const AT_XDP: u32 = 37;
pub(crate) const AT_TCX_INGRESS: u32 = 46;
/// How an XDP program is attached: by the driver, or in front of the stack.
pub(crate) const NATIVE: u32 = 1 << 2;
pub(crate) const GENERIC: u32 = 1 << 1;

/// One call. `T` is the part of `bpf_attr` that the command reads, its pointers as numbers.
fn call<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_long> {
    let len = size_of::<T>() as libc::c_uint;
    // SAFETY: `attributes` is the command's part of bpf_attr, `len` octets long and borrowed for the call; the pointers in it point to
    // memory that its maker borrows or owns until the call returns.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn descriptor<T>(command: libc::c_int, attributes: &mut T) -> io::Result<OwnedFd> {
    let raw = call(command, attributes)?;
    // SAFETY: the commands used here return a descriptor that was opened just now and that nobody else holds.
    Ok(unsafe { OwnedFd::from_raw_fd(raw as libc::c_int) })
}

/// A map with keys and values of fixed size.
#[derive(Debug)]
pub(crate) struct Map {
    fd: OwnedFd,
    key: usize,
    value: usize,
}

impl Map {
    pub(crate) fn new(kind: u32, key: usize, value: usize, entries: u32, flags: u32) -> io::Result<Self> {
        let mut attributes = [kind, key as u32, value as u32, entries, flags];
        Ok(Self { fd: descriptor(MAP_CREATE, &mut attributes)?, key, value })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.fd)
    }

    pub(crate) fn set(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        if key.len() != self.key || value.len() != self.value {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut attributes = [self.fd.as_raw_fd() as u64, key.as_ptr() as u64, value.as_ptr() as u64, 0];
        call(MAP_UPDATE, &mut attributes).map(drop)
    }

    pub(crate) fn remove(&self, key: &[u8]) -> io::Result<()> {
        if key.len() != self.key {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut attributes = [self.fd.as_raw_fd() as u64, key.as_ptr() as u64];
        call(MAP_DELETE, &mut attributes).map(drop)
    }

    /// All keys, in no order.
    pub(crate) fn keys(&self) -> Vec<Vec<u8>> {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        loop {
            let mut next = vec![0; self.key];
            let before = keys.last().map_or(0, |key| key.as_ptr() as u64);
            let mut attributes = [self.fd.as_raw_fd() as u64, before, next.as_mut_ptr() as u64];
            if call(MAP_NEXT_KEY, &mut attributes).is_err() {
                return keys;
            }
            keys.push(next);
        }
    }
}

#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    licence: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel: u32,
    flags: u32,
    name: [u8; 16],
    ifindex: u32,
    attach: u32,
}

/// Loads a program; the error carries the verifier's last words.
pub(crate) fn load(kind: u32, attach: u32, name: &str, instructions: &[u64]) -> io::Result<OwnedFd> {
    let licence = c"Apache-2.0";
    let mut log = vec![0u8; 64 << 10];
    let mut load = Load {
        kind,
        count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        licence: licence.as_ptr() as u64,
        attach,
        ..Load::default()
    };
    for (to, from) in load.name.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    let error = match descriptor(PROG_LOAD, &mut load) {
        Ok(program) => return Ok(program),
        Err(error) => error,
    };
    // Once more, for the verifier's words.
    (load.log_level, load.log_size, load.log) = (1, log.len() as u32, log.as_mut_ptr() as u64);
    let _ = descriptor(PROG_LOAD, &mut load);
    let said = String::from_utf8_lossy(log.split(|&b| b == 0).next().unwrap_or(&[])).trim().to_owned();
    let last = said.lines().rev().find(|line| !line.starts_with("processed")).unwrap_or_default();
    Err(if last.is_empty() { error } else { io::Error::new(error.kind(), format!("{error} ({last})")) })
}

/// What pinning asks.
#[repr(C)]
struct Pin {
    path: u64,
    fd: u32,
    flags: u32,
}

/// A program's place on an interface; it is empty again when this is dropped, unless the link is pinned.
#[derive(Debug)]
pub(crate) struct Link {
    fd: OwnedFd,
}

impl Link {
    pub(crate) fn new(program: &OwnedFd, ifindex: u32, attach: u32, flags: u32) -> io::Result<Self> {
        // What follows the flags depends on the place; zero means "wherever".
        let mut attributes = [program.as_raw_fd() as u32, ifindex, attach, flags, 0, 0, 0, 0];
        Ok(Self { fd: descriptor(LINK_CREATE, &mut attributes)? })
    }

    /// Another program takes the place, without a gap.
    pub(crate) fn replace(&self, program: &OwnedFd) -> io::Result<()> {
        let mut attributes = [self.fd.as_raw_fd() as u32, program.as_raw_fd() as u32, 0, 0];
        call(LINK_UPDATE, &mut attributes).map(drop)
    }

    /// Empties the place, whoever else holds the link.
    pub(crate) fn detach(&self) {
        let mut attributes = [self.fd.as_raw_fd() as u32];
        let _ = call(LINK_DETACH, &mut attributes);
    }

    pub(crate) fn pin(&self, path: &Path) -> io::Result<()> {
        let path = text(path)?;
        let mut attributes = Pin { path: path.as_ptr() as u64, fd: self.fd.as_raw_fd() as u32, flags: 0 };
        call(OBJ_PIN, &mut attributes).map(drop)
    }

    pub(crate) fn pinned(path: &Path) -> io::Result<Self> {
        let path = text(path)?;
        let mut attributes = [path.as_ptr() as u64, 0];
        Ok(Self { fd: descriptor(OBJ_GET, &mut attributes)? })
    }
}

fn text(path: &Path) -> io::Result<CString> {
    use std::os::unix::ffi::OsStrExt;
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// What a program says to a frame.
#[cfg(test)]
pub(crate) fn test_run(program: &OwnedFd, frame: &[u8]) -> io::Result<u32> {
    #[repr(C)]
    #[derive(Default)]
    struct Run {
        program: u32,
        verdict: u32,
        len_in: u32,
        len_out: u32,
        data_in: u64,
        data_out: u64,
        repeat: u32,
        duration: u32,
        context: [u64; 3],
        flags: u32,
        cpu: u32,
        batch: u32,
        pad: u32,
    }
    let mut run = Run {
        program: program.as_raw_fd() as u32,
        len_in: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        repeat: 1,
        ..Run::default()
    };
    call(PROG_TEST_RUN, &mut run)?;
    Ok(run.verdict)
}
