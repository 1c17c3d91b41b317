//! How the bytes of a request are laid over descriptors.

use alloc::vec::Vec;

/// How the bytes of a request are laid over descriptors (virtio 2.7.4.2: any way is right).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Framing {
    /// Header, data and in-header each on their own.
    Usual,
    /// One descriptor to read, one to write.
    Joined,
    /// Header and in-header in descriptors of one byte.
    Bytes,
    /// Cut off every border: part of the header alone, the rest of it with the first data byte; the last
    /// data byte with part of the in-header.
    Astride,
    /// The data in pieces of odd sizes.
    Odd,
}

/// All of them.
pub(crate) const FRAMINGS: [Framing; 5] =
    [Framing::Usual, Framing::Joined, Framing::Bytes, Framing::Astride, Framing::Odd];

impl Framing {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Usual => "header, data and status apart",
            Self::Joined => "one descriptor each way",
            Self::Bytes => "one byte a descriptor",
            Self::Astride => "descriptors across every border",
            Self::Odd => "data in odd pieces",
        }
    }

    /// Lengths of the descriptors that hold `head` bytes of header and `data` bytes after it.
    pub(crate) fn readable(self, head: usize, data: usize, most: usize) -> Vec<usize> {
        match self {
            Self::Usual => cut(&[head, data], most),
            Self::Joined => cut(&[head.saturating_add(data)], most),
            Self::Bytes => {
                let mut pieces = alloc::vec![1; head];
                pieces.push(data);
                cut(&pieces, most)
            }
            Self::Astride if head > 1 && data > 1 => cut(&[head - 1, 2, data - 1], most),
            Self::Astride => cut(&[head / 2, head - head / 2, data], most),
            Self::Odd => {
                let mut pieces = alloc::vec![head];
                pieces.extend(odd(data));
                cut(&pieces, most)
            }
        }
    }

    /// Lengths of the descriptors that hold `data` bytes and `tail` bytes of in-header behind them.
    pub(crate) fn writable(self, data: usize, tail: usize, most: usize) -> Vec<usize> {
        let mut pieces = self.readable(tail, data, most);
        pieces.reverse();
        pieces
    }
}

/// `data` as 1, 510, 3 and the rest, as far as it goes.
fn odd(data: usize) -> Vec<usize> {
    let mut left = data;
    let mut pieces = Vec::new();
    for piece in [1, 510, 3] {
        let piece = piece.min(left);
        pieces.push(piece);
        left -= piece;
    }
    pieces.push(left);
    pieces
}

/// The pieces, none empty, none longer than `most`.
fn cut(pieces: &[usize], most: usize) -> Vec<usize> {
    let mut all = Vec::new();
    for piece in pieces {
        let mut left = *piece;
        while left > 0 {
            let now = left.min(most.max(1));
            all.push(now);
            left -= now;
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_framing_keeps_every_byte() {
        for framing in FRAMINGS {
            for data in [0, 1, 2, 20, 511, 512, 4096] {
                for most in [1, 16, 512, usize::MAX] {
                    let readable = framing.readable(16, data, most);
                    assert_eq!(readable.iter().sum::<usize>(), 16 + data, "{framing:?} {data}");
                    let writable = framing.writable(data, 9, most);
                    assert_eq!(writable.iter().sum::<usize>(), 9 + data, "{framing:?} {data}");
                    assert!(readable.iter().chain(&writable).all(|n| (1..=most).contains(n)));
                }
            }
        }
        assert_eq!(Framing::Usual.readable(16, 4096, 2048), [16, 2048, 2048]);
        assert_eq!(Framing::Bytes.writable(512, 9, 4096), [512, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
        assert_eq!(Framing::Astride.readable(16, 512, 4096), [15, 2, 511]);
        assert_eq!(Framing::Astride.writable(512, 9, 4096), [511, 2, 8]);
    }
}
