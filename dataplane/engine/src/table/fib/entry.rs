//! What a place in a table says: an answer, or where to read on.

/// Thirty bits of index or answer under two bits of kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry(u32);

const KIND: u32 = 3 << 30;
const ANSWER: u32 = 0;

/// Where to read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// A line of ranges.
    Line = 1 << 30,
    /// A node of 256 entries.
    Node = 2 << 30,
    /// A node for the bits behind the block (IPv6 beyond /48).
    Deep = 3 << 30,
}

impl Entry {
    /// No route.
    pub const NONE: Entry = Entry(0);

    /// The answer `value`, below 2^30 - 1.
    pub const fn answer(value: u32) -> Self {
        Self((value + 1) & !KIND)
    }

    /// Read on at `index` of the structures of a kind.
    pub const fn at(kind: Kind, index: usize) -> Self {
        Self(kind as u32 | index as u32 & !KIND)
    }

    /// Whether nothing has to be read any more.
    #[inline]
    pub const fn is_answer(self) -> bool {
        self.0 & KIND == ANSWER
    }

    /// The answer, `None` for no route.
    #[inline]
    pub const fn value(self) -> Option<u32> {
        (self.0 & !KIND).checked_sub(1)
    }

    /// Whether it leads to a structure of this kind.
    #[inline]
    pub const fn is(self, kind: Kind) -> bool {
        self.0 & KIND == kind as u32
    }

    /// The index there.
    #[inline]
    pub const fn index(self) -> usize {
        (self.0 & !KIND) as usize
    }
}
