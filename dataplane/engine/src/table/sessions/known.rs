//! The addresses that sessions have: tells packets that can belong to none apart before a bucket is touched.
//!
//! Counts, not a copy of the document's addresses: sessions outlive services and backends, and what no session uses lets nothing through.

/// Bits of an address's place: 2 KiB for each kind, which stays in L1.
const BITS: u32 = 14;
const PLACES: usize = 1 << BITS;

/// One kind of addresses.
pub(super) struct Known {
    /// Sessions by the hash of their address.
    sessions: Box<[u32]>,
    /// A bit for each that is not 0.
    any: Box<[u64; PLACES / 64]>,
}

impl Known {
    pub fn new() -> Self {
        Self { sessions: vec![0; PLACES].into_boxed_slice(), any: Box::new([0; PLACES / 64]) }
    }

    /// Whether a session may have an address of this hash; false is certain.
    #[inline]
    pub fn may_hold(&self, hash: u64) -> bool {
        let place = place(hash);
        self.any[place / 64] >> (place % 64) & 1 == 1
    }

    /// A session with the address begins.
    pub fn add(&mut self, hash: u64) {
        let place = place(hash);
        self.sessions[place] += 1;
        self.any[place / 64] |= 1 << (place % 64);
    }

    /// It ends.
    pub fn remove(&mut self, hash: u64) {
        let place = place(hash);
        let left = self.sessions[place].saturating_sub(1);
        self.sessions[place] = left;
        if left == 0 {
            self.any[place / 64] &= !(1 << (place % 64));
        }
    }
}

#[inline]
fn place(hash: u64) -> usize {
    (hash >> (64 - BITS)) as usize
}
