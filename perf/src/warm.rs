//! Filling a node's tables before anything is measured: frames go in a few at a time, the slow path and the stations around do their
//! part, whatever the wires are.

use crate::load::Template;
use crate::rig::{ROUNDS, gently};

/// A node with the stations around it, all on this thread.
pub trait Surroundings {
    /// Puts a frame on its port's wire.
    fn send(&mut self, template: &Template);

    /// One turn of the worker; how many packets it moved.
    fn turn(&mut self) -> usize;

    /// One turn of the slow path; how many packets it took.
    fn slow_turn(&mut self) -> usize;

    /// Takes what the node sent; the stations answer what asks for them. Whether one did.
    fn answer(&mut self) -> bool;

    /// Lets the slow path and the stations around work until nothing moves any more.
    fn settle(&mut self) {
        for _ in 0..ROUNDS {
            while self.turn() > 0 {}
            let taken = self.slow_turn();
            let injected = self.turn();
            if !self.answer() && taken == 0 && injected == 0 {
                return;
            }
        }
    }

    /// Sends frames a few at a time, all of them: neighbours get resolved, sessions made. False when `done`, told of each few, wants no
    /// more.
    fn warm<'a>(&mut self, frames: impl IntoIterator<Item = &'a Template>, mut done: impl FnMut(u64) -> bool) -> bool {
        gently(frames, &mut done, |frames| {
            for template in frames {
                self.send(template);
            }
            self.settle();
        })
    }
}
