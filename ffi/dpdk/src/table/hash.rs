//! rte_hash: a cuckoo table of keys of one length, with CRC32C for its hash.

use std::ffi::c_void;
use std::ptr::{NonNull, null, null_mut};

use marchproxy_dpdk_sys as sys;

use super::{Home, TableError, unique_name};
use crate::eal::Eal;

/// A table of keys of `LEN` bytes, each with a word.
#[derive(Debug)]
pub struct Hash<const LEN: usize> {
    raw: NonNull<sys::rte_hash>,
    home: Home,
}

// SAFETY: the table is memory of DPDK's heap, bound to no thread (without its multi-writer flag), and this handle its only owner.
unsafe impl<const LEN: usize> Send for Hash<LEN> {}

/// What a burst of look-ups found: bit `n` of `mask` is set when key `n` was, and then `words[n]` is its word.
#[derive(Clone, Copy, Debug)]
pub struct Hits {
    /// Which keys were found.
    pub mask: u64,
    words: [*mut c_void; Hits::MOST],
}

impl Hits {
    /// Keys of one look-up at most.
    pub const MOST: usize = sys::MP_HASH_BULK_MAX as usize;

    /// Nothing found yet.
    pub const NONE: Self = Self { mask: 0, words: [null_mut(); Self::MOST] };

    /// The word of key `n`, if it was found.
    #[inline]
    pub fn word(&self, n: usize) -> Option<usize> {
        let found = n < Self::MOST && self.mask & 1 << n != 0;
        found.then(|| self.words[n].addr())
    }
}

impl<const LEN: usize> Hash<LEN> {
    /// An empty table. It may be full a little before `entries` keys: give it some more.
    pub fn create(eal: &Eal, entries: u32) -> Result<Self, TableError> {
        let home = Home::new("rte_hash", eal.process());
        // RTE_HASH_ENTRIES_MAX; a bucket has 8.
        home.within("entries", entries.into(), 8, 1 << 30)?;
        home.within("key length", LEN as u64, 1, 1 << 10)?;
        let name = unique_name("hash");
        // SAFETY: EAL runs (home holds it); `name` is zero-terminated and copied; the numbers are in range (checked above).
        let raw = unsafe { sys::mp_hash_create(name.as_ptr(), entries, LEN as u32) };
        Ok(Self { raw: home.made(raw)?, home })
    }

    /// Adds a key, or changes its word.
    pub fn add(&mut self, key: &[u8; LEN], word: usize) -> Result<(), TableError> {
        let word = null_mut::<c_void>().with_addr(word);
        // SAFETY: the table is alive (self owns it) and exclusively borrowed; it has keys of LEN bytes, which are copied; the word
        // is only stored.
        let result = unsafe { sys::rte_hash_add_key_data(self.raw.as_ptr(), key.as_ptr().cast(), word) };
        self.home.check("key", result)
    }

    /// Finds up to [`Hits::MOST`] keys at once; more are left out.
    #[inline]
    pub fn lookup(&self, keys: &[[u8; LEN]], hits: &mut Hits) {
        let mut pointers = [null::<c_void>(); Hits::MOST];
        for (pointer, key) in pointers.iter_mut().zip(keys) {
            *pointer = key.as_ptr().cast();
        }
        hits.mask = 0;
        let n = keys.len().min(Hits::MOST) as u32;
        if n == 0 {
            return;
        }
        // SAFETY: the table is alive and has keys of LEN bytes; the first `n` pointers name one each, alive during the call; mask and
        // words have room for as many. It fails for wrong arguments only, and leaves the mask empty then.
        let _ = unsafe {
            sys::rte_hash_lookup_bulk_data(
                self.raw.as_ptr(),
                pointers.as_mut_ptr(),
                n,
                &raw mut hits.mask,
                hits.words.as_mut_ptr(),
            )
        };
    }
}

impl<const LEN: usize> Drop for Hash<LEN> {
    fn drop(&mut self) {
        // SAFETY: self owns the table, which is not used again; EAL still runs (home holds it).
        unsafe { sys::rte_hash_free(self.raw.as_ptr()) };
    }
}
