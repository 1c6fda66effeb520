//! What all interfaces of a process share: the tables, in two sets of which one is in use.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Mutex, PoisonError};

use bytemuck::bytes_of;
use libbpf_rs::MapHandle;

use crate::abi;
use crate::addresses::Addresses;
use crate::error::XdpError;
use crate::maps::{Loaded, inner_hash, put};

/// The maps that are one for all interfaces.
const SHARED: [&str; 2] = ["active", "addresses"];

/// XDP in this process. Making one tries for real whether the kernel takes the program.
pub struct Xdp {
    shared: Vec<(String, MapHandle)>,
    /// Which set is in use; held while the other is filled.
    active: Mutex<u32>,
}

impl Xdp {
    /// Loads the program once, attached to nothing.
    pub fn load() -> Result<Self, XdpError> {
        let mut loaded = Loaded::new(&[])?;
        let mut shared = Vec::new();
        for name in SHARED {
            shared.push((name.to_owned(), loaded.take(name)?));
        }
        let xdp = Self { shared, active: Mutex::new(0) };
        xdp.set_addresses(&Addresses::default())?;
        Ok(xdp)
    }

    pub(crate) fn program(&self) -> Result<Loaded, XdpError> {
        Loaded::new(&self.shared)
    }

    fn table(&self, name: &'static str) -> Result<&MapHandle, XdpError> {
        let found = self.shared.iter().find(|(known, _)| known == name);
        found
            .map(|(_, map)| map)
            .ok_or_else(|| XdpError::Table { table: name, source: std::io::ErrorKind::NotFound.into() })
    }

    /// Whose addresses are whose, for all interfaces, from one packet to the next.
    pub fn set_addresses(&self, addresses: &Addresses) -> Result<(), XdpError> {
        let mut active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        let next = (*active + 1) % abi::GENERATIONS;
        let table = inner_hash("addresses", 16, size_of::<abi::Address>() as u32, addresses.len())?;
        for (key, value) in addresses.entries() {
            put("addresses", &table, &key, bytes_of(&value))?;
        }
        // A map of maps is written only when no program can see what was there any more (the kernel waits for that): so when the
        // set goes into use nobody looks at the tables it had before.
        put("addresses", self.table("addresses")?, &next, &table.as_fd().as_raw_fd().to_ne_bytes())?;
        put("active", self.table("active")?, &0u32, &next.to_ne_bytes())?;
        *active = next;
        Ok(())
    }
}

impl std::fmt::Debug for Xdp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Xdp").field("active", &self.active).finish_non_exhaustive()
    }
}
