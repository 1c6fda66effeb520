//! The places packets wait in: as many as there will ever be, in lists by index.

/// Ends a list.
pub const NIL: u32 = u32::MAX;

/// One place.
pub struct Place<B> {
    packet: Option<B>,
    /// When it came.
    pub since: u64,
    /// What it takes on the wire.
    pub octets: u32,
    /// The one behind it.
    pub next: u32,
}

/// All of a port.
pub struct Places<B> {
    list: Box<[Place<B>]>,
    /// First free one.
    free: u32,
    left: u32,
}

impl<B> Places<B> {
    /// This many, all free.
    pub fn new(count: u32) -> Self {
        let next = |n| if n + 1 == count { NIL } else { n + 1 };
        let list = (0..count).map(|n| Place { packet: None, since: 0, octets: 0, next: next(n) }).collect();
        Self { list, free: if count == 0 { NIL } else { 0 }, left: count }
    }

    /// How many are free.
    #[inline]
    pub fn left(&self) -> u32 {
        self.left
    }

    /// How many are taken.
    #[inline]
    pub fn taken(&self) -> usize {
        self.list.len() - self.left as usize
    }

    /// Puts a packet into a free place; gives it back when there is none.
    #[inline]
    pub fn put(&mut self, packet: B, since: u64, octets: u32) -> Result<u32, B> {
        let at = self.free;
        let Some(place) = self.list.get_mut(at as usize) else { return Err(packet) };
        self.free = place.next;
        self.left -= 1;
        *place = Place { packet: Some(packet), since, octets, next: NIL };
        Ok(at)
    }

    /// A place; `None` for [`NIL`].
    #[inline]
    pub fn get(&self, at: u32) -> Option<&Place<B>> {
        self.list.get(at as usize)
    }

    /// The packet in a place, writable.
    #[inline]
    pub fn packet_mut(&mut self, at: u32) -> Option<&mut B> {
        self.list.get_mut(at as usize)?.packet.as_mut()
    }

    /// Puts `next` behind `at`.
    #[inline]
    pub fn link(&mut self, at: u32, next: u32) {
        if let Some(place) = self.list.get_mut(at as usize) {
            place.next = next;
        }
    }

    /// Takes the packet out; the place is free then.
    #[inline]
    pub fn take(&mut self, at: u32) -> Option<B> {
        let place = self.list.get_mut(at as usize)?;
        let packet = place.packet.take()?;
        place.next = self.free;
        self.free = at;
        self.left += 1;
        Some(packet)
    }

    /// Starts loading a place.
    #[inline]
    pub fn prefetch(&self, at: u32) {
        marchproxy_cpu::prefetch_slice(&self.list, at as usize);
    }
}
