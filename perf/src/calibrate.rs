//! The yardstick of a run: what a fixed piece of memory work costs on this machine right now, so that figures of different days and
//! machines can be scaled; and what reading the clock costs.

use marchproxy_cpu::tsc;

use crate::seeded::Rng;

/// Octets the lines are spread over.
const SPAN: usize = 128 << 20;
/// Lines in the loop.
const LINES: usize = 64 << 10;
/// Laps measured, after one that warms up.
const LAPS: usize = 4;
/// Steps timed at once: a fraction of a millisecond, so that an interruption spoils one piece and not the lap.
const PIECE: usize = 4096;

/// A cache line that names the next one of the loop.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(u32);

/// A closed walk through 65,536 lines chosen at random among the 2,097,152 of a 128 MB buffer, in random order; each step's
/// address comes from the line before (a dependent chase: latency, not bandwidth). The lines are 4 MB, so after the first
/// lap they come from L2 and L3; where the heap has no huge pages, nearly every step needs another translation, too.
pub struct Calibration {
    lines: Vec<Line>,
    /// The lines in the order of the walk.
    order: Vec<u32>,
}

/// What the walk cost, in ticks per step of each piece of some laps.
#[derive(Clone, Debug, Default)]
pub struct Steps {
    /// Each step waits for the one before.
    pub dependent: Vec<f64>,
    /// The same lines in the same order, addresses known beforehand: as many loads at once as the core manages.
    pub independent: Vec<f64>,
}

impl Default for Calibration {
    fn default() -> Self {
        let mut rng = Rng::new(0, "calibration");
        let mut chosen = std::collections::HashSet::with_capacity(LINES);
        let mut order = Vec::with_capacity(LINES);
        while order.len() < LINES {
            let line = rng.below(SPAN / size_of::<Line>()) as u32;
            if chosen.insert(line) {
                order.push(line);
            }
        }
        let mut lines = vec![Line(0); SPAN / size_of::<Line>()];
        for (at, &line) in order.iter().enumerate() {
            lines[line as usize] = Line(order[(at + 1) % LINES]);
        }
        Self { lines, order }
    }
}

impl Calibration {
    /// Walks both ways and adds what it cost.
    pub fn measure(&self, steps: &mut Steps) {
        let mut at = self.order[0];
        for lap in 0..=LAPS {
            // The other way walks half a lap ahead: lines that were left long ago by either.
            let ahead = self.order.chunks_exact(PIECE).cycle().skip(LINES / PIECE / 2);
            for piece in ahead.take(LINES / PIECE) {
                let start = tsc();
                for _ in 0..PIECE {
                    at = self.lines[at as usize].0;
                }
                // Without the address of the last line the steps would not be needed.
                at = std::hint::black_box(at);
                let dependent = tsc().saturating_sub(start);
                let start = tsc();
                let sum = piece.iter().fold(0u32, |sum, &line| sum.wrapping_add(self.lines[line as usize].0));
                std::hint::black_box(sum);
                let independent = tsc().saturating_sub(start);
                if lap > 0 {
                    steps.dependent.push(dependent as f64 / PIECE as f64);
                    steps.independent.push(independent as f64 / PIECE as f64);
                }
            }
        }
    }
}

/// Ticks between two readings of the clock with nothing between them: what every measured stretch contains too much.
pub fn clock_cost() -> u64 {
    (0..10_000)
        .map(|_| {
            let start = tsc();
            tsc().saturating_sub(start)
        })
        .min()
        .unwrap_or(0)
}

/// The middle value; of an even number the upper of the two; 0 of none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_visited_once() {
        let calibration = Calibration::default();
        let (mut at, mut count) = (calibration.order[0], 0);
        loop {
            at = calibration.lines[at as usize].0;
            count += 1;
            if at == calibration.order[0] {
                break;
            }
        }
        assert_eq!(count, LINES);
        let mut steps = Steps::default();
        calibration.measure(&mut steps);
        assert_eq!(steps.dependent.len(), LAPS * LINES / PIECE);
        assert_eq!(steps.independent.len(), steps.dependent.len());
        assert!(median(steps.independent) > 0.0 && median(steps.dependent) > 0.0, "both ways are walked and timed");
    }

    #[test]
    fn medians() {
        assert!((median([3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median([4.0, 1.0, 2.0, 3.0]) - 3.0).abs() < 1e-9);
        assert!(median([]).abs() < 1e-9);
    }
}
