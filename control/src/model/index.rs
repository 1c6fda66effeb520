//! The objects of a version by name, with their hashes, kept so that the content hash of the next version costs what changes and what is
//! behind it, and not the whole document.

use sha2::{Digest, Sha256};

use super::{Kind, hex};

/// Objects from one remembered state of the hash to the next.
const STRIDE: usize = 1024;

/// Kind, name and hash of every object, in canonical order.
#[derive(Clone, Debug, Default)]
pub struct Index {
    names: Vec<(Kind, String)>,
    hashes: Vec<[u8; 32]>,
    /// The content hash's state before each object whose number [`STRIDE`] divides, as far as they are known.
    states: Vec<Sha256>,
}

impl Index {
    /// Of objects in canonical order.
    pub fn new(objects: impl Iterator<Item = ((Kind, String), [u8; 32])>) -> Self {
        let (names, hashes) = objects.unzip();
        Self { names, hashes, states: Vec::new() }
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The objects, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&(Kind, String), &[u8; 32])> {
        self.names.iter().zip(&self.hashes)
    }

    /// The object's hash.
    pub fn get(&self, object: &(Kind, String)) -> Option<&[u8; 32]> {
        self.names.binary_search(object).ok().map(|at| &self.hashes[at])
    }

    /// Puts an object into its place, or in the place of the one with its kind and name.
    pub fn put(&mut self, object: (Kind, String), hash: [u8; 32]) {
        let at = self.names.binary_search(&object);
        self.forget(at.unwrap_or_else(|at| at));
        match at {
            Ok(at) => self.hashes[at] = hash,
            Err(at) => {
                self.names.insert(at, object);
                self.hashes.insert(at, hash);
            }
        }
    }

    /// Takes an object away. Whether it was there.
    pub fn remove(&mut self, object: &(Kind, String)) -> bool {
        let Ok(at) = self.names.binary_search(object) else { return false };
        self.forget(at);
        self.names.remove(at);
        self.hashes.remove(at);
        true
    }

    fn forget(&mut self, changed: usize) {
        self.states.truncate(changed / STRIDE + 1);
    }

    /// The content hash: [`hash_of_hashes`](super::hash_of_hashes) of all.
    pub fn content_hash(&mut self) -> String {
        let mut state = self.states.pop().unwrap_or_default();
        for stride in self.hashes[(self.states.len() * STRIDE).min(self.hashes.len())..].chunks(STRIDE) {
            self.states.push(state.clone());
            state.update(stride.as_flattened());
        }
        hex(&state.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::super::hash_of_hashes;
    use super::*;

    #[test]
    fn the_hash_is_that_of_all_hashes_whatever_came_before() {
        let object = |n: usize| (if n.is_multiple_of(3) { Kind::Rule } else { Kind::Route }, format!("o{n:05}"));
        let hash = |n: usize| [(n % 251) as u8; 32];
        let mut index = Index::new(std::iter::empty());
        assert_eq!(index.content_hash(), hash_of_hashes(std::iter::empty()));
        let mut state = 9usize;
        for round in 0..40 {
            for _ in 0..200 {
                state = state.wrapping_mul(1_103_515_245).wrapping_add(12345) & 0x7fff_ffff;
                let n = (state >> 8) % 5000;
                if state.is_multiple_of(4) {
                    let known = index.get(&object(n)).is_some();
                    assert_eq!(index.remove(&object(n)), known);
                } else {
                    index.put(object(n), hash(n + round));
                    assert_eq!(index.get(&object(n)), Some(&hash(n + round)));
                }
            }
            assert!(index.iter().is_sorted_by(|a, b| a.0 < b.0));
            assert_eq!(index.content_hash(), hash_of_hashes(index.iter().map(|(_, hash)| *hash)));
            assert_eq!(index.content_hash(), hash_of_hashes(index.iter().map(|(_, hash)| *hash)), "and again");
        }
        assert!(index.len() > 2 * STRIDE);
    }
}
