//! Opening the object, and its maps by name.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use bytemuck::{NoUninit, bytes_of};
use libbpf_rs::{MapCore, MapFlags, MapHandle, Object, ObjectBuilder, OpenObject, PrintLevel};

use crate::error::XdpError;

/// The compiled program, aligned as an ELF file wants it.
#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);

static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/marchproxy.bpf.o")));
static MEASURE: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/measure.bpf.o")));

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// That of interfaces.
    Interface,
    /// The same for figures.
    Measure,
}

/// What libbpf says while an object is loaded; one at a time.
static SAID: Mutex<String> = Mutex::new(String::new());
/// The end of a verifier's log holds its reason.
const SAID_OCTETS: usize = 4096;

// As libbpf-rs wants it.
#[allow(clippy::needless_pass_by_value)]
fn hear(_: PrintLevel, line: String) {
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    said.push_str(&line);
    let spare = said.len().saturating_sub(SAID_OCTETS);
    if let Some(cut) = (spare..said.len()).find(|&at| said.is_char_boundary(at)) {
        said.drain(..cut);
    }
}

/// A loaded program and its maps.
pub struct Loaded {
    pub program: OwnedFd,
    maps: Vec<(String, MapHandle)>,
}

impl Loaded {
    /// Loads the program; maps of those names are taken from `shared` in place of new ones.
    pub fn new(program: Program, shared: &[(String, MapHandle)]) -> Result<Self, XdpError> {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let before = libbpf_rs::set_print(Some((PrintLevel::Warn, hear)));
        SAID.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let loaded = load(program, shared);
        libbpf_rs::set_print(before);
        loaded.map_err(|error| {
            let reason = format!("{error:#}");
            // The verifier's refusals are EACCES, which libbpf-rs calls the same.
            if reason.contains("(os error 1)") {
                return XdpError::NotAllowed { reason };
            }
            let said = SAID.lock().unwrap_or_else(PoisonError::into_inner).trim().to_owned();
            XdpError::NotLoaded { reason, said }
        })
    }

    /// The map of a name, which the program has.
    pub fn take(&mut self, name: &'static str) -> Result<MapHandle, XdpError> {
        let position = self.maps.iter().position(|(known, _)| known == name);
        let missing = || XdpError::Table { table: name, source: io::ErrorKind::NotFound.into() };
        Ok(self.maps.swap_remove(position.ok_or_else(missing)?).1)
    }
}

fn load(program: Program, shared: &[(String, MapHandle)]) -> libbpf_rs::Result<Loaded> {
    let object = match program {
        Program::Interface => &OBJECT.0,
        Program::Measure => &MEASURE.0,
    };
    let mut open: OpenObject = ObjectBuilder::default().open_memory(object)?;
    for mut map in open.maps_mut() {
        let name = map.name().to_string_lossy().into_owned();
        if let Some((_, ours)) = shared.iter().find(|(known, _)| *known == name) {
            map.reuse_fd(ours.as_fd())?;
        }
    }
    let object: Object = open.load()?;
    let mut maps = Vec::new();
    for map in object.maps() {
        maps.push((map.name().to_string_lossy().into_owned(), MapHandle::try_from(&map)?));
    }
    let program = object.progs().next().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    Ok(Loaded { program: program.as_fd().try_clone_to_owned()?, maps })
}

/// Writes one entry.
pub fn put(table: &'static str, map: &MapHandle, key: &impl NoUninit, value: &[u8]) -> Result<(), XdpError> {
    write(table, map, bytes_of(key), value)
}

/// The same with a key in octets.
pub fn write(table: &'static str, map: &MapHandle, key: &[u8], value: &[u8]) -> Result<(), XdpError> {
    map.update(key, value, MapFlags::ANY).map_err(|_| failed(table))
}

/// The call that has just failed: libbpf sets errno, which its wrapper hides.
pub fn failed(table: &'static str) -> XdpError {
    XdpError::Table { table, source: io::Error::last_os_error() }
}
