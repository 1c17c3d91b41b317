//! Arrays that get longer under those who read them.

use std::fmt;
use std::sync::OnceLock;

/// As many as there can be of the largest arrays here, from a first part of 64 on.
const PARTS: usize = 18;
const FIRST_MIN: usize = 64;

/// An array that gets longer, and never moves what it has: it can be read without a lock meanwhile. Each
/// part after the first is as long as all before it.
pub struct Growing<T> {
    first: usize,
    parts: [OnceLock<Box<[T]>>; PARTS],
    make: fn() -> T,
}

impl<T> fmt::Debug for Growing<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Growing").field("first", &self.first).finish_non_exhaustive()
    }
}

impl<T> Growing<T> {
    /// At least `len` elements, each made by `make`.
    pub fn new(len: usize, make: fn() -> T) -> Self {
        let first = len.next_power_of_two().max(FIRST_MIN);
        let array = Self { first, parts: [const { OnceLock::new() }; PARTS], make };
        array.grow(len);
        array
    }

    /// Makes it at least `len` elements long. Done by one thread at a time.
    pub fn grow(&self, len: usize) {
        for (index, part) in self.parts.iter().enumerate() {
            if self.start(index) >= len {
                return;
            }
            part.get_or_init(|| (0..self.len_of(index)).map(|_| (self.make)()).collect());
        }
    }

    /// Element `index`; `None` past the end.
    #[inline]
    pub fn get(&self, index: usize) -> Option<&T> {
        if index < self.first {
            return self.parts[0].get()?.get(index);
        }
        let part = (index / self.first).ilog2() as usize + 1;
        self.parts.get(part)?.get()?.get(index - self.start(part))
    }

    /// All elements, in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.parts.iter().map_while(OnceLock::get).flatten()
    }

    fn start(&self, part: usize) -> usize {
        if part == 0 { 0 } else { self.first << (part - 1) }
    }

    fn len_of(&self, part: usize) -> usize {
        if part == 0 { self.first } else { self.first << (part - 1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn elements_stay_where_they_are() {
        let array = Growing::new(3, || AtomicUsize::new(7));
        assert!(array.get(63).is_some());
        assert!(array.get(64).is_none());
        let before: *const _ = array.get(2).unwrap();
        array.get(2).unwrap().store(9, Ordering::Relaxed);
        array.grow(70_000);
        assert!(std::ptr::eq(before, array.get(2).unwrap()));
        for index in 0..70_000 {
            let value = array.get(index).unwrap().swap(index, Ordering::Relaxed);
            assert_eq!(value, if index == 2 { 9 } else { 7 }, "{index}");
        }
        for (index, value) in array.iter().enumerate().take(70_000) {
            assert_eq!(value.load(Ordering::Relaxed), index);
        }
        assert_eq!(array.iter().count(), 64 << 11);
        assert!(array.get(64 << 11).is_none());
        assert!(array.get(usize::MAX).is_none());
    }

    #[test]
    fn the_largest_table_fits() {
        let array = Growing::new(0, || ());
        array.grow(zvb_zones::Geometry::MAX_ZONES as usize);
        assert!(array.get(zvb_zones::Geometry::MAX_ZONES as usize - 1).is_some());
    }
}
