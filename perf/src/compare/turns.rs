//! Takes turns: ours, theirs, peer by peer, and again, so that whatever disturbs the machine disturbs all.

use std::time::Duration;

use super::{Build, Missing, Row};
use crate::Error;
use crate::progress::Progress;

/// Two sides that do the same work, ready to be measured.
pub trait Contest {
    /// The peer's name, as `--only` takes it.
    fn peer(&self) -> &str;

    /// What both rates count.
    fn unit(&self) -> &'static str;

    /// What must be known to read the row; asked for after the last turn.
    fn note(&self) -> String;

    /// The work, where the contests of one comparison differ in it.
    fn work(&self) -> Option<&str> {
        None
    }

    /// What it took to build both sides, where there is something to build.
    fn build(&self) -> Option<Build> {
        None
    }

    /// Our rate over `duration`. An error ends the contest.
    fn ours(&mut self, duration: Duration) -> Result<f64, Error>;

    /// Seconds of CPU time that threads of the kernel spent for the peer so far.
    fn elsewhere(&self) -> f64 {
        0.0
    }

    /// The peer's rate over `duration`. An error makes the peer a missing one.
    fn theirs(&mut self, duration: Duration) -> Result<f64, Error>;
}

/// The contests of one comparison.
pub type Contests<'a> = Vec<Box<dyn Contest + 'a>>;

/// How often and how long.
#[derive(Clone, Copy, Debug)]
pub struct Turns {
    /// Turns of each contest.
    pub repeats: usize,
    /// Measuring time of one side in one turn.
    pub duration: Duration,
}

/// What the turns brought.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Peers with at least one turn.
    pub rows: Vec<Row>,
    /// Peers that failed.
    pub missing: Vec<Missing>,
    /// Ended early.
    pub interrupted: bool,
}

impl Turns {
    /// Measures all contests in turn. A contest with a side that fails is dropped from the following rounds; an interrupt leaves what
    /// there is.
    pub fn take(
        &self,
        work: &'static str,
        contests: &mut [Box<dyn Contest + '_>],
        progress: &Progress,
    ) -> Result<Outcome, Error> {
        let mut rates: Vec<Vec<[f64; 2]>> = contests.iter().map(|_| Vec::new()).collect();
        let mut failed: Vec<Option<Failure>> = contests.iter().map(|_| None).collect();
        progress.phase("taking turns", (contests.len() * self.repeats) as u64);
        'all: for round in 0..self.repeats {
            for ((contest, rates), failed) in contests.iter_mut().zip(&mut rates).zip(&mut failed) {
                if failed.is_some() {
                    continue;
                }
                let turn = self.turn(contest.as_mut(), round);
                // What was measured while somebody pressed Ctrl-C is shorter than the rest, or a consequence of it.
                if progress.stopped() {
                    break 'all;
                }
                match turn {
                    Ok(turn) => rates.push(turn),
                    Err(failure) => *failed = Some(failure),
                }
                progress.advance(1);
            }
        }
        progress.finish();
        let nothing = rates.iter().all(Vec::is_empty);
        let mut outcome = Outcome { interrupted: progress.stopped(), ..Outcome::default() };
        for ((contest, rates), failed) in contests.iter().zip(&rates).zip(failed) {
            let work = contest.work().unwrap_or(work);
            let row = Row::new(contest.peer(), work, contest.unit(), contest.note(), rates);
            outcome.rows.extend(row.map(|row| Row { build: contest.build(), ..row }));
            match failed {
                // Where nothing at all was measured our own failure is all there is to say.
                Some(Failure::Ours(error)) if nothing => return Err(error),
                Some(Failure::Ours(error)) => {
                    outcome.missing.push(Missing::new(format!("ours against {}", contest.peer()), error.to_string()));
                }
                Some(Failure::Theirs(error)) => outcome.missing.push(Missing::new(contest.peer(), error.to_string())),
                None => {}
            }
        }
        Ok(outcome)
    }

    /// Both sides once, the other one first in every second round: a machine that gets slower all the time favours nobody.
    fn turn(&self, contest: &mut dyn Contest, round: usize) -> Result<[f64; 2], Failure> {
        if round.is_multiple_of(2) {
            let ours = contest.ours(self.duration).map_err(Failure::Ours)?;
            return Ok([ours, contest.theirs(self.duration).map_err(Failure::Theirs)?]);
        }
        let theirs = contest.theirs(self.duration).map_err(Failure::Theirs)?;
        Ok([contest.ours(self.duration).map_err(Failure::Ours)?, theirs])
    }
}

/// Which side ended a contest.
#[derive(Debug)]
enum Failure {
    Ours(Error),
    Theirs(Error),
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// A peer that is half as fast as we are and may fail or stop everything in a given round.
    struct Half {
        name: &'static str,
        log: Vec<char>,
        fails_at: Option<usize>,
        we_fail_at: Option<usize>,
        stops_at: Option<(usize, Arc<AtomicBool>)>,
    }

    impl Half {
        fn new(name: &'static str) -> Self {
            Self { name, log: Vec::new(), fails_at: None, we_fail_at: None, stops_at: None }
        }

        fn rounds(&self) -> usize {
            self.log.iter().filter(|side| **side == 't').count()
        }
    }

    impl Contest for &mut Half {
        fn peer(&self) -> &str {
            self.name
        }

        fn unit(&self) -> &'static str {
            "packets/s"
        }

        fn note(&self) -> String {
            String::new()
        }

        fn ours(&mut self, _: Duration) -> Result<f64, Error> {
            let round = self.log.iter().filter(|side| **side == 'o').count();
            self.log.push('o');
            if self.we_fail_at == Some(round) { Err(Error::Harness("we broke")) } else { Ok(2.0) }
        }

        fn theirs(&mut self, _: Duration) -> Result<f64, Error> {
            let round = self.rounds();
            self.log.push('t');
            if let Some((_, stop)) = self.stops_at.as_ref().filter(|(at, _)| *at == round) {
                stop.store(true, Ordering::Relaxed);
            }
            if self.fails_at == Some(round) { Err(Error::Harness("it broke")) } else { Ok(1.0) }
        }
    }

    const TURNS: Turns = Turns { repeats: 3, duration: Duration::ZERO };

    #[test]
    fn the_sides_swap_places_every_round() {
        let mut half = Half::new("half");
        let outcome = TURNS.take("forward", &mut [Box::new(&mut half)], &Progress::hidden()).unwrap();
        assert_eq!(half.log.iter().collect::<String>(), "ottoot");
        assert_eq!(outcome.rows.len(), 1);
        assert!((outcome.rows[0].ratio - 2.0).abs() < 1e-9);
        assert!(outcome.missing.is_empty() && !outcome.interrupted);
    }

    #[test]
    fn a_peer_that_fails_is_missing_and_the_others_go_on() {
        let (mut good, mut bad) = (Half::new("good"), Half::new("bad"));
        bad.fails_at = Some(0);
        let outcome =
            TURNS.take("forward", &mut [Box::new(&mut bad), Box::new(&mut good)], &Progress::hidden()).unwrap();
        assert_eq!(outcome.rows.iter().map(|row| row.peer.as_str()).collect::<Vec<_>>(), ["good"]);
        assert_eq!(outcome.missing, [Missing::new("bad", "the harness is wrong: it broke")]);
        assert_eq!((good.rounds(), bad.rounds()), (3, 1));
    }

    #[test]
    fn our_own_failure_keeps_what_was_measured() {
        let (mut good, mut bad) = (Half::new("good"), Half::new("bad"));
        bad.we_fail_at = Some(1);
        let outcome =
            TURNS.take("forward", &mut [Box::new(&mut bad), Box::new(&mut good)], &Progress::hidden()).unwrap();
        assert_eq!(outcome.rows.iter().map(|row| row.ratios.len()).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(outcome.missing, [Missing::new("ours against bad", "the harness is wrong: we broke")]);

        let mut broken = Half::new("broken");
        broken.we_fail_at = Some(0);
        let error = TURNS.take("forward", &mut [Box::new(&mut broken)], &Progress::hidden()).unwrap_err();
        assert!(error.to_string().contains("we broke"), "with nothing measured there is only the error");
    }

    #[test]
    fn an_interrupt_keeps_the_turns_before_it() {
        let stop = Arc::new(AtomicBool::new(false));
        let mut half = Half::new("half");
        half.stops_at = Some((1, stop.clone()));
        let outcome = TURNS.take("forward", &mut [Box::new(&mut half)], &Progress::new(stop)).unwrap();
        assert!(outcome.interrupted);
        assert_eq!(outcome.rows[0].ratios.len(), 1, "the turn of the interrupt does not count");
    }
}
