//! Inner tables of generations: made when their content is new, else used once more.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd};

use bytemuck::{NoUninit, bytes_of};
use libbpf_rs::{MapCore, MapFlags, MapHandle, MapType, libbpf_sys};

use crate::error::XdpError;
use crate::maps::{failed, put, write};

/// Keys and values one behind the other, as the kernel takes them.
pub struct Content {
    name: &'static str,
    kind: MapType,
    sizes: (usize, usize),
    flags: u32,
    entries: Vec<u8>,
}

impl Content {
    pub fn new<K: NoUninit, V: NoUninit>(
        name: &'static str,
        kind: MapType,
        flags: u32,
        entries: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let mut bytes = Vec::new();
        for (key, value) in entries {
            bytes.extend_from_slice(bytes_of(&key));
            bytes.extend_from_slice(bytes_of(&value));
        }
        Self { name, kind, sizes: (size_of::<K>(), size_of::<V>()), flags, entries: bytes }
    }

    /// An array of values of this size, all in `values`.
    pub fn array(name: &'static str, flags: u32, values: &[u8], size: usize) -> Self {
        let mut entries = Vec::with_capacity(values.len() / size * (size + size_of::<u32>()));
        for (key, value) in (0u32..).zip(values.chunks_exact(size)) {
            entries.extend_from_slice(bytes_of(&key));
            entries.extend_from_slice(value);
        }
        Self { name, kind: MapType::Array, sizes: (size_of::<u32>(), size), flags, entries }
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A table with this content.
    pub fn make(&self) -> Result<MapHandle, XdpError> {
        let (key, value) = self.sizes;
        let options = libbpf_sys::bpf_map_create_opts {
            sz: size_of::<libbpf_sys::bpf_map_create_opts>() as _,
            map_flags: self.flags,
            ..Default::default()
        };
        let entries = u32::try_from((self.entries.len() / (key + value)).max(1)).unwrap_or(u32::MAX);
        let map = MapHandle::create(self.kind, Some(self.name), key as u32, value as u32, entries, &options)
            .map_err(|_| failed(self.name))?;
        if self.kind == MapType::Array && self.fill(&map) {
            return Ok(map);
        }
        for entry in self.entries.chunks_exact(key + value) {
            write(self.name, &map, &entry[..key], &entry[key..])?;
        }
        Ok(map)
    }
}

impl Content {
    /// All entries of an array in one call: one for every port number is 65,536. False where the kernel has no such call.
    fn fill(&self, map: &MapHandle) -> bool {
        let (key, value) = self.sizes;
        let entries = || self.entries.chunks_exact(key + value);
        let keys: Vec<u8> = entries().flat_map(|entry| &entry[..key]).copied().collect();
        let values: Vec<u8> = entries().flat_map(|entry| &entry[key..]).copied().collect();
        let count = entries().len() as u32;
        count > 0 && map.update_batch(&keys, &values, count, MapFlags::ANY, MapFlags::ANY).is_ok()
    }
}

/// The tables that were made last, by name. A push that leaves a table as it is costs it nothing.
#[derive(Default)]
pub struct Made {
    tables: BTreeMap<&'static str, (Vec<u8>, MapHandle)>,
    /// How many were made under a name, and which of them each generation has.
    numbers: BTreeMap<&'static str, u64>,
    there: BTreeMap<(&'static str, u32), u64>,
}

impl Made {
    /// Puts a table with this content, perhaps one that is in use already, into a generation. To exchange a table the kernel waits until no
    /// program sees the one before, so one that is there already is left there.
    pub fn install(&mut self, content: Content, outer: &MapHandle, slot: u32) -> Result<(), XdpError> {
        let name = content.name;
        let number = self.numbers.entry(name).or_default();
        if self.tables.get(name).is_none_or(|(made, _)| *made != content.entries) {
            let map = content.make()?;
            *number += 1;
            self.tables.insert(name, (content.entries, map));
        }
        if self.there.get(&(name, slot)) == Some(number) {
            return Ok(());
        }
        let (_, map) = self.tables.get(name).ok_or_else(|| failed(name))?;
        // Of one that could not be put there nothing is known.
        self.there.remove(&(name, slot));
        install(name, outer, slot, map)?;
        self.there.insert((name, slot), *number);
        Ok(())
    }

    /// Another table was put there.
    pub fn forget(&mut self, name: &'static str, slot: u32) {
        self.there.remove(&(name, slot));
    }
}

/// Puts an inner table into its generation. The kernel returns when no program sees the one before any more.
pub fn install(name: &'static str, outer: &MapHandle, slot: u32, table: &MapHandle) -> Result<(), XdpError> {
    put(name, outer, &slot, &table.as_fd().as_raw_fd().to_ne_bytes())
}
