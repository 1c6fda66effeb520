//! Inner tables of generations: made when their content is new, else used once more.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd};

use bytemuck::{NoUninit, bytes_of};
use libbpf_rs::{MapHandle, MapType, libbpf_sys};

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
        for entry in self.entries.chunks_exact(key + value) {
            write(self.name, &map, &entry[..key], &entry[key..])?;
        }
        Ok(map)
    }
}

/// The tables that were made last, by name. A push that leaves a table as it is costs it nothing.
#[derive(Default)]
pub struct Made {
    tables: BTreeMap<&'static str, (Vec<u8>, MapHandle)>,
}

impl Made {
    /// A table with this content, perhaps one that is in use already.
    pub fn table(&mut self, content: Content) -> Result<&MapHandle, XdpError> {
        let name = content.name;
        if self.tables.get(name).is_none_or(|(made, _)| *made != content.entries) {
            let map = content.make()?;
            self.tables.insert(name, (content.entries, map));
        }
        self.tables.get(name).map(|(_, map)| map).ok_or_else(|| failed(name))
    }
}

/// Puts an inner table into its generation. The kernel returns when no program sees the one before any more.
pub fn install(name: &'static str, outer: &MapHandle, slot: u32, table: &MapHandle) -> Result<(), XdpError> {
    put(name, outer, &slot, &table.as_fd().as_raw_fd().to_ne_bytes())
}
