//! What is in a sector: every sector ever written is like no other.

use std::fmt;

/// A sector of a medium.
pub type Block = [u8; 512];

/// What is in a sector, in short.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Tag(u64);

impl Tag {
    /// Zeroes.
    pub const ZERO: Self = Self(0);

    /// Sector `index` of what operation `operation` writes; operations count from 1.
    pub fn new(operation: u64, index: u64) -> Self {
        debug_assert!(operation > 0 && index < 1 << 12, "operations count from 1");
        Self(operation << 12 | index)
    }

    /// The operation that wrote it; 0 for zeroes.
    pub fn operation(self) -> u64 {
        self.0 >> 12
    }

    /// Its bytes: each word depends on the tag and on its own place.
    pub fn block(self) -> Block {
        let mut block = [0; 512];
        if self != Self::ZERO {
            for (i, word) in (0u64..).zip(block.chunks_exact_mut(8)) {
                word.copy_from_slice(&self.word(i).to_le_bytes());
            }
        }
        block
    }

    fn word(self, i: u64) -> u64 {
        self.0 ^ i.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    /// The tag that has these bytes, if there is one.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let (first, _) = bytes.split_first_chunk::<8>()?;
        let tag = Self(u64::from_le_bytes(*first));
        (tag.block() == bytes).then_some(tag)
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ZERO => f.write_str("0"),
            Self(tag) => write!(f, "#{}+{}", tag >> 12, tag & 0xfff),
        }
    }
}
