//! Controlled delay (RFC 8289): says which packets of one queue are to be dropped or marked so that its delay stays near the target.

/// The state of one queue. The pseudocode of RFC 8289 s5 takes several packets off the queue in one call; here each packet is judged when
/// it is its turn, and what the call would have done with the next one is remembered in [`After`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Codel {
    /// When the delay will have been above the target for an interval; 0 while it is below.
    first_above: u64,
    drop_next: u64,
    count: u32,
    last_count: u32,
    dropping: bool,
    after: After,
}

/// What is still to be done about the signal before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum After {
    #[default]
    Nothing,
    /// The first one of a dropping state: the next packet goes whatever its delay.
    First,
    /// Another one: the next is due by the control law, unless the delay fell.
    More,
}

const _: () = assert!(size_of::<Codel>() <= 32);

impl Codel {
    /// Whether this packet, which waited for `sojourn`, is to carry the signal. `small`: not more than one full packet is left in
    /// the queue with it.
    #[inline]
    pub fn signals(&mut self, now: u64, sojourn: u64, small: bool, (target, interval): (u64, u64)) -> bool {
        let above = self.is_above(now, sojourn < target || small, interval);
        if !above && !self.dropping {
            self.after = After::Nothing;
            return false;
        }
        self.judge(now, above, interval)
    }

    /// `ok_to_drop` of RFC 8289 s5.4.
    #[inline]
    fn is_above(&mut self, now: u64, good: bool, interval: u64) -> bool {
        if good {
            self.first_above = 0;
            return false;
        }
        if self.first_above == 0 {
            self.first_above = now + interval;
            return false;
        }
        now >= self.first_above
    }

    fn judge(&mut self, now: u64, above: bool, interval: u64) -> bool {
        match std::mem::take(&mut self.after) {
            After::First => return false,
            After::More if above => self.drop_next = law(self.drop_next, self.count, interval),
            _ => {}
        }
        if self.dropping {
            if !above {
                self.dropping = false;
            } else if now >= self.drop_next {
                self.count = self.count.saturating_add(1);
                self.after = After::More;
                return true;
            }
            return false;
        }
        if !above {
            return false;
        }
        let delta = self.count.wrapping_sub(self.last_count);
        let recent = now.saturating_sub(self.drop_next) < 16 * interval;
        self.count = if delta > 1 && delta < u32::MAX / 2 && recent { delta } else { 1 };
        self.last_count = self.count;
        self.drop_next = law(now, self.count, interval);
        self.dropping = true;
        self.after = After::First;
        true
    }

    /// The queue ran empty.
    pub fn ran_empty(&mut self) {
        (self.first_above, self.dropping, self.after) = (0, false, After::Nothing);
    }
}

/// The control law: signals come closer with the square root of their number. Asked once per signal.
fn law(from: u64, count: u32, interval: u64) -> u64 {
    from + (interval as f64 / f64::from(count.max(1)).sqrt()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    const MS: u64 = 1_000_000;
    const KNOBS: (u64, u64) = (5 * MS, 100 * MS);

    /// RFC 8289 s5 as it stands there, on a queue of its own.
    #[derive(Default)]
    struct Twin {
        queue: VecDeque<u64>,
        first_above: u64,
        drop_next: u64,
        count: u32,
        last_count: u32,
        dropping: bool,
        dropped: Vec<u64>,
    }

    impl Twin {
        fn dodequeue(&mut self, now: u64) -> (Option<u64>, bool) {
            let Some(packet) = self.queue.pop_front() else {
                self.first_above = 0;
                return (None, false);
            };
            // Counting the packet at hand, as `small` of the fast one does.
            if now - packet < KNOBS.0 || self.queue.is_empty() {
                self.first_above = 0;
                return (Some(packet), false);
            }
            if self.first_above == 0 {
                self.first_above = now + KNOBS.1;
                return (Some(packet), false);
            }
            (Some(packet), now >= self.first_above)
        }

        fn dequeue(&mut self, now: u64) -> Option<u64> {
            let (mut packet, mut ok) = self.dodequeue(now);
            if self.dropping {
                if !ok {
                    self.dropping = false;
                }
                while now >= self.drop_next && self.dropping {
                    self.dropped.extend(packet);
                    self.count += 1;
                    (packet, ok) = self.dodequeue(now);
                    if ok {
                        self.drop_next = law(self.drop_next, self.count, KNOBS.1);
                    } else {
                        self.dropping = false;
                    }
                }
            } else if ok {
                self.dropped.extend(packet);
                (packet, _) = self.dodequeue(now);
                self.dropping = true;
                let delta = self.count.wrapping_sub(self.last_count);
                self.count = 1;
                if delta > 1 && now.saturating_sub(self.drop_next) < 16 * KNOBS.1 {
                    self.count = delta;
                }
                self.drop_next = law(now, self.count, KNOBS.1);
                self.last_count = self.count;
            }
            packet
        }
    }

    #[test]
    fn it_drops_what_the_rfc_drops() {
        for seed in 1..40u64 {
            let (mut twin, mut ours, mut codel, mut dropped) =
                (Twin::default(), VecDeque::new(), Codel::default(), vec![]);
            let (mut now, mut random) = (1u64, seed);
            for step in 0..30_000u64 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(seed);
                now += 1 + (random >> 33) % (MS / 2);
                // Waves of load: more arrives than leaves, then less.
                let arrivals = if (step / 3000) % 2 == 0 { (random >> 20) % 4 } else { (random >> 20) % 2 };
                for _ in 0..arrivals {
                    twin.queue.push_back(now);
                    if ours.is_empty() {
                        codel.ran_empty();
                    }
                    ours.push_back(now);
                }
                let mut sent = None;
                while let Some(packet) = ours.pop_front() {
                    if codel.signals(now, now - packet, ours.is_empty(), KNOBS) {
                        dropped.push(packet);
                    } else {
                        sent = Some(packet);
                        break;
                    }
                }
                // The RFC asks an empty queue as well, which ends the dropping state; here the next arrival does.
                if twin.queue.is_empty() {
                    (twin.first_above, twin.dropping) = (0, false);
                } else {
                    assert_eq!(twin.dequeue(now), sent);
                }
            }
            assert_eq!(twin.dropped, dropped);
            assert!(dropped.len() > 50, "{}", dropped.len());
        }
    }

    #[test]
    fn short_bursts_pass_untouched() {
        let mut codel = Codel::default();
        // 90 ms above the target, then a moment below it, again and again.
        for n in 0..10_000u64 {
            let sojourn = if n % 100 < 90 { 50 * MS } else { MS };
            assert!(!codel.signals(n * MS + 1, sojourn, false, KNOBS));
        }
    }
}
