//! Whole generations of tables, published by one thread and observed by pinned workers.
//!
//! - The [`Publisher`] swaps in a new value; its generation word goes up by one.
//! - Each [`Reader`] looks at the word once per burst ([`Reader::refresh`]): one load of a line that only changes on a push. When
//!   it changed, the reader takes the new `Arc` and shows the generation it runs. It never waits: if the publisher happens to hold
//!   the slot, the reader keeps the old generation for one more burst.
//! - The publisher keeps every old value until all readers show a newer generation, so the last reference is dropped on its
//!   thread ([`Publisher::reclaim`]) and a worker never frees a table.
//!
//! `cargo test -p marchproxy-rcu` with `RUSTFLAGS="--cfg loom"` explores every interleaving (`scripts/test` does).
#![forbid(unsafe_code)]

mod pool;
mod sync;

pub use pool::Pool;

use sync::{Arc, AtomicU64, Mutex, Ordering, pause};

/// A word on a cache line of its own.
#[repr(align(128))]
struct Padded(AtomicU64);

/// The newest value a reader has not taken yet, with its generation.
type Mailbox<T> = Mutex<Option<(u64, Arc<T>)>>;

struct Shared<T> {
    /// Written by the publisher after the slots hold the value.
    published: Padded,
    /// One per reader: the generation it runs. Written by that reader only.
    seen: Box<[Padded]>,
    /// One per reader.
    slots: Box<[Mailbox<T>]>,
}

/// The writing side.
pub struct Publisher<T> {
    shared: Arc<Shared<T>>,
    generation: u64,
    current: Arc<T>,
    /// Values replaced, with the generation that replaced each.
    retired: Vec<(u64, Arc<T>)>,
}

/// The reading side; one per worker.
pub struct Reader<T> {
    shared: Arc<Shared<T>>,
    index: usize,
    generation: u64,
    current: Arc<T>,
}

/// A publisher and `readers` readers that all start on `first` as generation 1.
pub fn channel<T>(first: T, readers: usize) -> (Publisher<T>, Vec<Reader<T>>) {
    let current = Arc::new(first);
    let shared = Arc::new(Shared {
        published: Padded(AtomicU64::new(1)),
        seen: (0..readers).map(|_| Padded(AtomicU64::new(1))).collect(),
        slots: (0..readers).map(|_| Mutex::new(None)).collect(),
    });
    let readers = (0..readers)
        .map(|index| Reader { shared: shared.clone(), index, generation: 1, current: current.clone() })
        .collect();
    (Publisher { shared, generation: 1, current, retired: Vec::new() }, readers)
}

impl<T> Publisher<T> {
    /// Makes `value` the current generation and returns its number. Readers see it at their next refresh.
    pub fn publish(&mut self, value: T) -> u64 {
        self.publish_shared(Arc::new(value))
    }

    fn publish_shared(&mut self, value: Arc<T>) -> u64 {
        self.generation += 1;
        let old = std::mem::replace(&mut self.current, value);
        self.retired.push((self.generation, old));
        for slot in &self.shared.slots {
            let mut value = Some((self.generation, self.current.clone()));
            // Spins instead of blocking: a reader that unlocks a slot nobody waits on makes no system call.
            loop {
                if let Ok(mut guard) = slot.try_lock() {
                    // A value the reader never took is replaced; `retired` still holds it, so nothing is freed here.
                    std::mem::swap(&mut *guard, &mut value);
                    break;
                }
                pause();
            }
        }
        self.shared.published.0.store(self.generation, Ordering::Release);
        self.generation
    }

    /// Makes the current value a new generation once more: nothing is built, and readers see that something changed.
    pub fn republish(&mut self) -> u64 {
        let again = self.current.clone();
        self.publish_shared(again)
    }

    /// The newest value.
    pub fn current(&self) -> &T {
        &self.current
    }

    /// The newest generation.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The generation each reader runs.
    pub fn seen(&self) -> impl Iterator<Item = u64> + '_ {
        self.shared.seen.iter().map(|seen| seen.0.load(Ordering::Acquire))
    }

    /// Whether every reader runs `generation` or a newer one.
    pub fn settled(&self, generation: u64) -> bool {
        self.seen().all(|seen| seen >= generation)
    }

    /// Drops the values no reader can reach any more, here and now; returns how many are still waiting.
    pub fn reclaim(&mut self) -> usize {
        self.reclaim_into(drop)
    }

    /// Hands out the values no reader can reach any more, oldest first; returns how many are still waiting.
    pub fn reclaim_into(&mut self, mut take: impl FnMut(T)) -> usize {
        let oldest = self.seen().min().unwrap_or(u64::MAX);
        let waiting = self.retired.iter().position(|(replaced_by, _)| *replaced_by > oldest);
        let free = waiting.unwrap_or(self.retired.len());
        for (_, value) in self.retired.drain(..free) {
            // A value that was published again is not the last one of its kind.
            if let Ok(value) = Arc::try_unwrap(value) {
                take(value);
            }
        }
        self.retired.len()
    }
}

impl<T> Reader<T> {
    /// Moves on to the newest generation if there is one. Returns whether it changed. Wait-free.
    #[inline]
    pub fn refresh(&mut self) -> bool {
        self.shared.published.0.load(Ordering::Acquire) != self.generation && self.take()
    }

    #[cold]
    fn take(&mut self) -> bool {
        let Some(slot) = self.shared.slots.get(self.index) else { return false };
        let Ok(mut guard) = slot.try_lock() else { return false };
        let Some((generation, value)) = guard.take() else { return false };
        drop(guard);
        self.generation = generation;
        self.current = value;
        if let Some(seen) = self.shared.seen.get(self.index) {
            seen.0.store(generation, Ordering::Release);
        }
        true
    }

    /// The value this reader runs.
    #[inline]
    pub fn current(&self) -> &T {
        &self.current
    }

    /// The generation this reader runs.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    struct Counted(u64, std::sync::Arc<AtomicUsize>);
    impl Drop for Counted {
        fn drop(&mut self) {
            self.1.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn readers_move_on_when_they_look_and_old_values_wait_for_them() {
        let freed = std::sync::Arc::new(AtomicUsize::new(0));
        let (mut publisher, mut readers) = channel(Counted(1, freed.clone()), 2);
        assert_eq!(publisher.publish(Counted(2, freed.clone())), 2);
        assert!(!publisher.settled(2));
        assert_eq!(readers[0].current().0, 1);
        assert!(readers[0].refresh());
        assert!(!readers[0].refresh());
        assert_eq!((readers[0].current().0, readers[0].generation()), (2, 2));
        assert_eq!(publisher.reclaim(), 1, "the second reader still runs generation 1");
        assert_eq!(freed.load(Ordering::SeqCst), 0);
        assert!(readers[1].refresh());
        assert!(publisher.settled(2));
        assert_eq!(publisher.reclaim(), 0);
        assert_eq!(freed.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_reader_skips_generations_it_never_saw() {
        let freed = std::sync::Arc::new(AtomicUsize::new(0));
        let (mut publisher, mut readers) = channel(Counted(1, freed.clone()), 1);
        for n in 2..=5 {
            publisher.publish(Counted(n, freed.clone()));
        }
        assert!(readers[0].refresh());
        assert_eq!(readers[0].current().0, 5);
        publisher.reclaim();
        assert_eq!(freed.load(Ordering::SeqCst), 4);
    }

    #[test]
    fn a_value_can_be_several_generations() {
        let freed = std::sync::Arc::new(AtomicUsize::new(0));
        let (mut publisher, mut readers) = channel(Counted(1, freed.clone()), 1);
        assert_eq!(publisher.republish(), 2);
        assert!(readers[0].refresh());
        assert_eq!((readers[0].current().0, readers[0].generation()), (1, 2));
        assert_eq!((publisher.reclaim(), freed.load(Ordering::SeqCst)), (0, 0));
        publisher.publish(Counted(3, freed.clone()));
        assert!(readers[0].refresh());
        publisher.reclaim();
        assert_eq!(freed.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn what_nobody_reads_can_be_used_again() {
        let (mut publisher, mut readers) = channel(String::from("first"), 1);
        publisher.publish(String::from("second"));
        publisher.republish();
        let mut back = Vec::new();
        assert_eq!((publisher.reclaim_into(|value| back.push(value)), back.len()), (2, 0));
        assert!(readers[0].refresh());
        assert_eq!(publisher.reclaim_into(|value| back.push(value)), 0);
        assert_eq!(back, ["first"], "the second runs on under another number");
    }

    #[test]
    fn without_readers_everything_is_settled() {
        let (mut publisher, readers) = channel(1, 0);
        assert!(readers.is_empty());
        publisher.publish(2);
        assert!(publisher.settled(2));
        assert_eq!(publisher.reclaim(), 0);
    }
}

/// Loom explores every interleaving of publish, refresh, settle and free.
#[cfg(all(test, loom))]
mod model {
    use super::*;
    use loom::thread;

    /// Counts drops and remembers on which side they happened.
    struct Table {
        number: u64,
        freed_by_publisher: Arc<AtomicU64>,
        in_reclaim: Arc<AtomicU64>,
    }
    impl Drop for Table {
        fn drop(&mut self) {
            if self.in_reclaim.load(Ordering::Relaxed) == 1 {
                self.freed_by_publisher.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    #[test]
    fn settled_means_seen_and_old_tables_are_freed_by_the_publisher_alone() {
        loom::model(|| {
            let freed = Arc::new(AtomicU64::new(0));
            let in_reclaim = Arc::new(AtomicU64::new(0));
            let table = |number| Table { number, freed_by_publisher: freed.clone(), in_reclaim: in_reclaim.clone() };
            let (mut publisher, mut readers) = channel(table(1), 1);
            let mut reader = readers.pop().unwrap();
            let worker = thread::spawn(move || {
                let mut last = reader.current().number;
                for _ in 0..2 {
                    reader.refresh();
                    let now = reader.current().number;
                    assert!(now >= last, "a generation ran backwards");
                    assert_eq!(now, reader.generation(), "value and generation belong together");
                    last = now;
                }
                reader
            });
            publisher.publish(table(2));
            publisher.publish(table(3));
            let settled = publisher.settled(3);
            in_reclaim.store(1, Ordering::Relaxed);
            let waiting = publisher.reclaim();
            in_reclaim.store(0, Ordering::Relaxed);
            assert_eq!(freed.load(Ordering::Relaxed) + waiting as u64, 2, "a table was freed by a worker or leaked");
            if settled {
                assert_eq!(waiting, 0);
            }
            let mut reader = worker.join().unwrap();
            // A last look always reaches the newest generation.
            reader.refresh();
            assert_eq!(reader.current().number, 3);
            assert!(publisher.settled(3));
            assert_eq!(publisher.reclaim(), 0);
        });
    }

    #[test]
    fn two_readers_settle_independently() {
        loom::model(|| {
            let (mut publisher, mut readers) = channel(1u64, 2);
            let mut second = readers.pop().unwrap();
            let mut first = readers.pop().unwrap();
            let worker = thread::spawn(move || {
                first.refresh();
                *first.current()
            });
            publisher.publish(2);
            let other = thread::spawn(move || {
                second.refresh();
                *second.current()
            });
            let settled = publisher.settled(2);
            let values = (worker.join().unwrap(), other.join().unwrap());
            if settled {
                assert_eq!(values, (2, 2));
            }
        });
    }
}
