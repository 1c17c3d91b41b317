//! Latencies, counted in buckets that are never wider than 1/64 of what they hold.

/// Sub-buckets of a power of two, as a power of two.
const FINE_BITS: u32 = 6;
const FINE: u64 = 1 << FINE_BITS;
const BUCKETS: usize = ((64 - FINE_BITS) as usize + 1) * FINE as usize;

/// How often latencies were seen, in nanoseconds.
pub(crate) struct Histogram {
    buckets: Box<[u64]>,
    count: u64,
    sum: u128,
    max: u64,
}

impl Histogram {
    /// Nothing seen.
    pub(crate) fn new() -> Self {
        Self { buckets: vec![0; BUCKETS].into_boxed_slice(), count: 0, sum: 0, max: 0 }
    }

    /// Counts one latency.
    pub(crate) fn add(&mut self, nanos: u64) {
        if let Some(bucket) = self.buckets.get_mut(index(nanos)) {
            *bucket += 1;
        }
        self.count += 1;
        self.sum += u128::from(nanos);
        self.max = self.max.max(nanos);
    }

    /// Counts what `other` has counted.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (ours, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *ours += theirs;
        }
        self.count += other.count;
        self.sum += other.sum;
        self.max = self.max.max(other.max);
    }

    /// How many were counted.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Their mean, in nanoseconds; 0 for none.
    pub(crate) fn mean(&self) -> u64 {
        (self.sum / u128::from(self.count.max(1))) as u64
    }

    /// The largest, in nanoseconds.
    pub(crate) fn max(&self) -> u64 {
        self.max
    }

    /// What `per_mille` of a thousand are not above, in nanoseconds.
    pub(crate) fn quantile(&self, per_mille: u32) -> u64 {
        let rank = (u128::from(self.count) * u128::from(per_mille)).div_ceil(1000).max(1);
        let mut seen = 0u128;
        for (i, count) in self.buckets.iter().enumerate() {
            seen += u128::from(*count);
            if seen >= rank {
                return upper(i).min(self.max);
            }
        }
        self.max
    }
}

/// Values below [`FINE`] have a bucket each; from there on the highest seven bits choose it.
fn index(nanos: u64) -> usize {
    if nanos < FINE {
        return nanos as usize;
    }
    let shift = nanos.ilog2() - FINE_BITS;
    (u64::from(shift + 1) * FINE + (nanos >> shift) - FINE) as usize
}

/// The largest value that a bucket holds.
fn upper(index: usize) -> u64 {
    let index = index as u64;
    let Some(shift) = (index / FINE).checked_sub(1) else { return index };
    let low = (FINE + index % FINE) << shift;
    low + ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_cover_everything_once_and_finely() {
        let mut last = None;
        for i in 0..BUCKETS {
            let top = upper(i);
            assert_eq!(index(top), i);
            if let Some(last) = last {
                assert_eq!(index(last + 1), i, "the value after {last}");
                assert!(top - last <= (top / FINE).max(1), "bucket {i} is too wide");
            }
            last = Some(top);
        }
        assert_eq!(last, Some(u64::MAX));
    }

    #[test]
    fn quantiles_are_right_within_a_bucket() {
        let mut h = Histogram::new();
        (1..=1000u64).for_each(|n| h.add(n * 1000));
        let near = |got: u64, want: u64| got >= want && got <= want + want / 32;
        assert!(near(h.quantile(500), 500_000), "{}", h.quantile(500));
        assert!(near(h.quantile(990), 990_000), "{}", h.quantile(990));
        assert_eq!(h.quantile(1000), 1_000_000);
        assert_eq!((h.count(), h.mean(), h.max()), (1000, 500_500, 1_000_000));
        let mut both = Histogram::new();
        both.merge(&h);
        both.merge(&h);
        assert_eq!((both.count(), both.quantile(500)), (2000, h.quantile(500)));
        assert_eq!(Histogram::new().quantile(500), 0);
    }
}
