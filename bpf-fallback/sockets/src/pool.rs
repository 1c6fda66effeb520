//! Packet memory: a mapping cut into frames of one size. Every frame belongs to one thread (a *seat*) for good, so that no thread can
//! take another's share away, and comes home from wherever it was freed.
//!
//! A frame is in exactly one place: on its owner's list, on the stack of what came home, inside a [`Frame`](crate::Frame), or lent to
//! the kernel by one side of one socket. The last is written down for each frame, so what the kernel gives back is believed only if it
//! was lent to that socket.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::error::Error;
use crate::memory::Mapping;

/// The end of a list of frames.
const NONE: u32 = u32::MAX;
/// Frames of these sizes: ordinary, what AF_XDP carries at most (a page), and jumbo frames for af_packet.
pub(crate) const SIZES: [usize; 3] = [2048, 4096, 16384];
/// Of the configured memory each size takes this much: two sizes are all a node has, and something is left.
const SHARE: (usize, usize) = (4, 10);

/// All packet memory of a node. Lives as long as the process: packets come home at any time.
#[derive(Debug)]
pub struct Store {
    number: usize,
    seats: usize,
    bytes: usize,
    huge: bool,
    pools: [OnceLock<Pool>; SIZES.len()],
    making: Mutex<()>,
    taken: Mutex<Vec<bool>>,
}

/// The frames of one size.
#[derive(Debug)]
pub(crate) struct Pool {
    memory: Mapping,
    pub(crate) huge: bool,
    store: usize,
    class: usize,
    shift: u32,
    frames: u32,
    per_seat: u32,
    /// By seat the frames that other threads gave back: pushed by anybody, taken by the owner as a whole.
    returned: Box<[Returned]>,
    /// By frame the next one on whatever list it is on.
    next: Box<[AtomicU32]>,
    /// By frame the side of a socket that has it; 0 for none.
    lent: Box<[AtomicU32]>,
}

/// On a line of its own: written by every thread.
#[derive(Debug)]
#[repr(align(64))]
struct Returned(AtomicU32);

/// What a thread has at hand.
struct Seat {
    store: Cell<usize>,
    number: Cell<usize>,
    heads: [Cell<u32>; SIZES.len()],
}

thread_local! {
    static SEAT: Seat = const {
        Seat { store: Cell::new(0), number: Cell::new(0), heads: [const { Cell::new(NONE) }; SIZES.len()] }
    };
}

/// A thread's claim to its share of a store; frames that come to rest on this thread meanwhile are at hand without any exchange with
/// others.
#[derive(Debug)]
pub struct Seated {
    store: &'static Store,
    number: usize,
    /// Belongs to the thread.
    _here: PhantomData<*const ()>,
}

impl Store {
    /// Memory of this size for so many threads. Nothing is taken before the first use.
    pub fn leak(megabytes: usize, huge: bool, seats: usize) -> &'static Self {
        static STORES: AtomicUsize = AtomicUsize::new(1);
        let seats = seats.max(1);
        Box::leak(Box::new(Self {
            number: STORES.fetch_add(1, Ordering::Relaxed),
            seats,
            bytes: megabytes << 20,
            huge,
            pools: std::array::from_fn(|_| OnceLock::new()),
            making: Mutex::default(),
            taken: Mutex::new(vec![false; seats]),
        }))
    }

    /// The calling thread takes a share; it gives it back with the guard.
    pub fn enter(&'static self) -> Result<Seated, Error> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let free = taken.iter().position(|taken| !taken).ok_or(Error::Seats { seats: self.seats })?;
        SEAT.with(|seat| {
            if seat.store.get() != 0 {
                return Err(Error::Seats { seats: self.seats });
            }
            seat.store.set(self.number);
            seat.number.set(free);
            Ok(())
        })?;
        taken[free] = true;
        Ok(Seated { store: self, number: free, _here: PhantomData })
    }

    /// The frames that hold `octets` behind at least `headroom`, and whether they are in huge pages.
    pub(crate) fn pool(&'static self, octets: usize, headroom: usize) -> Result<&'static Pool, Error> {
        let class = SIZES.iter().position(|&size| octets + headroom <= size).unwrap_or(SIZES.len() - 1);
        if let Some(pool) = self.pools[class].get() {
            return Ok(pool);
        }
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = self.pools[class].get() {
            return Ok(pool);
        }
        let pool = Pool::new(self, class)?;
        Ok(self.pools[class].get_or_init(|| pool))
    }

    /// Whether packet memory is in huge pages, as far as there is any.
    pub fn is_huge(&self) -> Option<bool> {
        self.pools.iter().find_map(|pool| pool.get().map(|pool| pool.huge))
    }

    /// Frames that are at home or at hand of a thread, over all sizes: all but those in packets and with the kernel. For tests, on a
    /// store that rests.
    pub fn at_home(&self) -> usize {
        let lists = |pool: &Pool| {
            let heads = pool.returned.iter().map(|head| head.0.load(Ordering::Acquire));
            let here =
                SEAT.with(|seat| if seat.store.get() == self.number { seat.heads[pool.class].get() } else { NONE });
            heads.chain([here]).map(|head| pool.length(head)).sum::<usize>()
        };
        self.pools.iter().filter_map(OnceLock::get).map(lists).sum()
    }

    /// All frames there are, over all sizes in use.
    pub fn frames(&self) -> usize {
        self.pools.iter().filter_map(OnceLock::get).map(|pool| pool.frames as usize).sum()
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        SEAT.with(|seat| {
            for (class, head) in seat.heads.iter().enumerate() {
                let mut frame = head.replace(NONE);
                let Some(pool) = self.store.pools[class].get() else { continue };
                while frame != NONE {
                    let next = pool.next(frame);
                    pool.send_home(frame);
                    frame = next;
                }
            }
            seat.store.set(0);
        });
        self.store.taken.lock().unwrap_or_else(PoisonError::into_inner)[self.number] = false;
    }
}

impl Pool {
    fn new(store: &Store, class: usize) -> Result<Self, Error> {
        let size = SIZES[class];
        let per_seat = (store.bytes / SHARE.1 * SHARE.0 / size / store.seats).max(64);
        let frames = per_seat * store.seats;
        let megabytes = (frames * size) >> 20;
        let (memory, huge) = Mapping::memory(frames * size, store.huge).map_err(|source| Error::Memory {
            step: "mmap",
            megabytes,
            source,
        })?;
        let list = |value: u32| (0..frames).map(|_| AtomicU32::new(value)).collect::<Box<[_]>>();
        let pool = Self {
            memory,
            huge,
            store: store.number,
            class,
            shift: size.trailing_zeros(),
            frames: frames as u32,
            per_seat: per_seat as u32,
            returned: (0..store.seats).map(|_| Returned(AtomicU32::new(NONE))).collect(),
            next: list(NONE),
            lent: list(0),
        };
        // The first frame of each share is taken first.
        (0..pool.frames).rev().for_each(|frame| pool.send_home(frame));
        Ok(pool)
    }

    /// Octets of a frame.
    #[inline]
    pub(crate) fn size(&self) -> usize {
        1 << self.shift
    }

    /// Frames of each thread.
    pub(crate) fn per_seat(&self) -> usize {
        self.per_seat as usize
    }

    /// First octet and length of all frames together.
    pub(crate) fn span(&self) -> (*mut u8, usize) {
        (self.memory.start(), (self.frames as usize) << self.shift)
    }

    /// The address of a frame's first octet. `frame` is one of this pool's.
    #[inline]
    pub(crate) fn at(&self, frame: u32) -> *mut u8 {
        debug_assert!(frame < self.frames);
        self.memory.start().wrapping_add((frame as usize) << self.shift)
    }

    /// Where the kernel finds a frame, counted from the first.
    #[inline]
    pub(crate) fn address(&self, frame: u32) -> u64 {
        u64::from(frame) << self.shift
    }

    /// The frame that such an address is in, and how far in.
    #[inline]
    pub(crate) fn locate(&self, address: u64) -> (u32, usize) {
        ((address >> self.shift) as u32, (address as usize) & (self.size() - 1))
    }

    #[inline]
    fn next(&self, frame: u32) -> u32 {
        self.next.get(frame as usize).map_or(NONE, |next| next.load(Ordering::Relaxed))
    }

    /// A free frame of the calling thread's share; `None` when all are out, or the thread has none.
    #[inline]
    pub(crate) fn take(&self) -> Option<u32> {
        SEAT.with(|seat| {
            if seat.store.get() != self.store {
                return None;
            }
            let head = &seat.heads[self.class];
            let mut first = head.get();
            if first == NONE {
                first = self.returned.get(seat.number.get())?.0.swap(NONE, Ordering::Acquire);
            }
            if first == NONE {
                return None;
            }
            head.set(self.next(first));
            Some(first)
        })
    }

    /// Takes a frame back that nobody uses any more.
    #[inline]
    pub(crate) fn give_back(&self, frame: u32) {
        let here = SEAT.with(|seat| {
            if seat.store.get() != self.store || seat.number.get() != self.owner(frame) {
                return false;
            }
            let head = &seat.heads[self.class];
            if let Some(next) = self.next.get(frame as usize) {
                next.store(head.get(), Ordering::Relaxed);
                head.set(frame);
            }
            true
        });
        if !here {
            self.send_home(frame);
        }
    }

    #[inline]
    fn owner(&self, frame: u32) -> usize {
        (frame / self.per_seat) as usize
    }

    /// To the owner's stack. Only whole stacks are ever taken off, so there is no mistaking one head for a later, equal one.
    fn send_home(&self, frame: u32) {
        let (Some(stack), Some(next)) = (self.returned.get(self.owner(frame)), self.next.get(frame as usize)) else {
            return;
        };
        let mut head = stack.0.load(Ordering::Relaxed);
        loop {
            next.store(head, Ordering::Relaxed);
            match stack.0.compare_exchange_weak(head, frame, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(newer) => head = newer,
            }
        }
    }

    /// Notes that a side of a socket has the frame.
    #[inline]
    pub(crate) fn lend(&self, frame: u32, side: u32) {
        if let Some(lent) = self.lent.get(frame as usize) {
            lent.store(side, Ordering::Relaxed);
        }
    }

    /// Whether that side had the frame; it has it no more.
    #[inline]
    pub(crate) fn reclaim(&self, frame: u32, side: u32) -> bool {
        match self.lent.get(frame as usize) {
            Some(lent) if lent.load(Ordering::Relaxed) == side => {
                lent.store(0, Ordering::Relaxed);
                true
            }
            _ => false,
        }
    }

    /// Takes everything back from a side that is no more.
    pub(crate) fn recall(&self, side: u32) {
        for frame in 0..self.frames {
            if self.reclaim(frame, side) {
                self.give_back(frame);
            }
        }
    }

    fn length(&self, mut head: u32) -> usize {
        let mut length = 0;
        while head != NONE && length < self.frames as usize {
            length += 1;
            head = self.next(head);
        }
        length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_has_its_share_and_gets_it_back() {
        let store = Store::leak(2, false, 2);
        let pool = store.pool(1514, 256).unwrap();
        assert_eq!(pool.take(), None, "a thread without a seat has no frames");
        let seat = store.enter().unwrap();
        let mine: Vec<u32> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!(mine.len(), pool.per_seat());
        let (home, away) = mine.split_at(10);
        for &frame in home {
            pool.give_back(frame);
        }
        let away = away.to_vec();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _other = store.enter().unwrap();
                let theirs: Vec<u32> = std::iter::from_fn(|| pool.take()).collect();
                assert!(theirs.len() == pool.per_seat() && theirs.iter().all(|frame| !away.contains(frame)));
                assert!(store.enter().is_err(), "one seat a thread");
                // What this thread frees of the other's does not stay here.
                away.iter().chain(&theirs).for_each(|&frame| pool.give_back(frame));
                assert_eq!(std::iter::from_fn(|| pool.take()).count(), theirs.len());
                for &frame in &theirs {
                    pool.give_back(frame);
                }
            });
        });
        assert_eq!(store.at_home(), store.frames());
        assert_eq!(std::iter::from_fn(|| pool.take()).count(), mine.len());
        for &frame in &mine {
            pool.give_back(frame);
        }
        drop(seat);
        assert_eq!((pool.take(), store.at_home()), (None, store.frames()));
    }

    #[test]
    fn what_was_not_lent_to_a_socket_is_not_believed() {
        let store = Store::leak(2, false, 1);
        let _seat = store.enter().unwrap();
        let pool = store.pool(3000, 256).unwrap();
        assert_eq!(pool.size(), 4096);
        let (one, two) = (pool.take().unwrap(), pool.take().unwrap());
        pool.lend(one, 7);
        pool.lend(two, 7);
        assert!(!pool.reclaim(one, 8) && pool.reclaim(one, 7) && !pool.reclaim(one, 7));
        assert!(!pool.reclaim(u32::MAX, 7), "an address outside of the memory");
        pool.give_back(one);
        pool.recall(7);
        assert_eq!(store.at_home(), store.frames());
        assert_eq!(pool.locate(pool.address(two) + 256), (two, 256));
    }

    #[test]
    fn frames_come_home_from_many_threads_at_once() {
        let store = Store::leak(1, false, 3);
        let pool = store.pool(1514, 256).unwrap();
        let (to_a, from_b) = std::sync::mpsc::channel::<u32>();
        let (to_b, from_a) = std::sync::mpsc::channel::<u32>();
        std::thread::scope(|scope| {
            for (out, into) in [(to_a, from_a), (to_b, from_b)] {
                scope.spawn(move || {
                    let _seat = store.enter().unwrap();
                    for _ in 0..20_000 {
                        if let Some(frame) = pool.take() {
                            let _ = out.send(frame);
                        }
                        if let Ok(frame) = into.try_recv() {
                            pool.give_back(frame);
                        }
                    }
                    drop(out);
                    for frame in into {
                        pool.give_back(frame);
                    }
                });
            }
        });
        assert_eq!(store.at_home(), store.frames());
    }
}
