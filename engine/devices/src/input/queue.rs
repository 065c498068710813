//! A bounded queue that takes a sequence whole or not at all.

use std::collections::VecDeque;

/// At most `CAPACITY` elements, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Queue<T, const CAPACITY: usize> {
    elements: VecDeque<T>,
}

impl<T: Copy, const CAPACITY: usize> Queue<T, CAPACITY> {
    /// From a saved sequence; `None` when that is too long.
    pub fn from_saved(elements: Vec<T>) -> Option<Self> {
        (elements.len() <= CAPACITY).then(|| Self { elements: elements.into() })
    }

    pub fn to_saved(&self) -> Vec<T> {
        self.elements.iter().copied().collect()
    }

    /// Appends all of `sequence`, or nothing (and says false) where it does not fit.
    pub fn push_all(&mut self, sequence: &[T]) -> bool {
        let fits = sequence.len() <= self.free();
        if fits {
            self.elements.extend(sequence);
        }
        fits
    }

    pub fn pop(&mut self) -> Option<T> {
        self.elements.pop_front()
    }

    pub fn clear(&mut self) {
        self.elements.clear();
    }

    pub fn len(&self) -> usize {
        self.elements.len()
    }

    pub fn is_empty(&self) -> bool {
        self.elements.is_empty()
    }

    pub fn free(&self) -> usize {
        CAPACITY - self.elements.len()
    }
}
