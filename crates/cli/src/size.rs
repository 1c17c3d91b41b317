//! Sizes and counts as users type and read them: `64G`, `256MiB`, `1.5T`, `0x800`.
//!
//! Suffixes mean what they mean to util-linux: K, M, G, T, P, E and KiB, MiB, ... are powers of 1024;
//! KB, MB, ... are powers of 1000.

use std::fmt;
use std::str::FromStr;

use zvb_wire::Sector;

/// A number of bytes, typed with or without a suffix.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Size(pub(crate) u64);

/// A count, of sectors or zones, typed like a [`Size`]: `8`, `0x1000`, `2K`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Count(pub(crate) u64);

/// Why a text is no size.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum SizeError {
    /// Nothing, or no digit at the beginning.
    NoNumber,
    /// What follows the number is no suffix.
    Suffix(String),
    /// More than 2^64 - 1.
    TooLarge,
    /// Like `0.3K`: no whole number.
    Fraction,
}

impl fmt::Display for SizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoNumber => f.write_str("a number is expected, like 4096, 256M or 64GiB"),
            Self::Suffix(s) => write!(
                f,
                "\"{s}\" is no suffix: use K, M, G, T, P, E (or KiB, ...) for powers of 1024, KB, ... for powers of 1000"
            ),
            Self::TooLarge => f.write_str("that is more than 2^64 - 1"),
            Self::Fraction => f.write_str("that is no whole number"),
        }
    }
}

impl std::error::Error for SizeError {}

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        parse(text).map(Self)
    }
}

impl FromStr for Count {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        parse(text).map(Self)
    }
}

fn parse(text: &str) -> Result<u64, SizeError> {
    let text = text.trim();
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        if hex.is_empty() {
            return Err(SizeError::NoNumber);
        }
        // `from_str_radix` takes a sign.
        if let Some(bad) = hex.find(|c: char| !c.is_ascii_hexdigit()) {
            return Err(SizeError::Suffix(hex.get(bad..).unwrap_or_default().to_owned()));
        }
        return u64::from_str_radix(hex, 16).map_err(|_| SizeError::TooLarge);
    }
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (whole, rest) = text.split_at(digits);
    if whole.is_empty() {
        return Err(SizeError::NoNumber);
    }
    let (fraction, suffix) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())),
        None => ("", rest),
    };
    let unit = unit(suffix.trim_start())?;
    let whole: u64 = whole.parse().map_err(|_| SizeError::TooLarge)?;
    let bytes = whole.checked_mul(unit).ok_or(SizeError::TooLarge)?;
    bytes.checked_add(part_of(unit, fraction)?).ok_or(SizeError::TooLarge)
}

/// `0.fraction` of `unit`, when that is a whole number.
fn part_of(unit: u64, fraction: &str) -> Result<u64, SizeError> {
    let fraction = fraction.trim_end_matches('0');
    if fraction.is_empty() {
        return Ok(0);
    }
    let scale = u32::try_from(fraction.len()).ok().and_then(|n| 10u128.checked_pow(n));
    let (Some(scale), Ok(part)) = (scale, fraction.parse::<u128>()) else {
        return Err(SizeError::Fraction);
    };
    let scaled = part.checked_mul(u128::from(unit)).ok_or(SizeError::Fraction)?;
    if scaled % scale != 0 {
        return Err(SizeError::Fraction);
    }
    u64::try_from(scaled / scale).map_err(|_| SizeError::TooLarge)
}

/// What a suffix multiplies by.
fn unit(suffix: &str) -> Result<u64, SizeError> {
    let unknown = || SizeError::Suffix(suffix.to_owned());
    let mut chars = suffix.chars();
    let Some(first) = chars.next() else { return Ok(1) };
    let power = match first.to_ascii_uppercase() {
        'B' if suffix.len() == 1 => return Ok(1),
        'K' => 1,
        'M' => 2,
        'G' => 3,
        'T' => 4,
        'P' => 5,
        'E' => 6,
        _ => return Err(unknown()),
    };
    match chars.as_str().to_ascii_lowercase().as_str() {
        "" | "ib" => Ok(1u64 << (10 * power)),
        "b" => Ok(1000u64.pow(power)),
        _ => Err(unknown()),
    }
}

/// Bytes for people to read: the largest unit of 1024 with at most one decimal, `~` when that rounds.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let power = if self.0 == 0 { 0 } else { (self.0.ilog2() / 10) as usize };
        let unit = 1u64 << (10 * power);
        let name = UNITS.get(power).copied().unwrap_or("B");
        let text = if self.0.is_multiple_of(unit) {
            format!("{} {name}", self.0 / unit)
        } else {
            let exact = (u128::from(self.0) * 10).is_multiple_of(u128::from(unit));
            let about = if exact { "" } else { "~" };
            format!("{about}{:.1} {name}", self.0 as f64 / unit as f64)
        };
        f.pad(&text)
    }
}

impl Size {
    /// What so many sectors are; the largest size there is when they pass it.
    pub(crate) fn of(sectors: Sector) -> Self {
        Self(sectors.to_bytes().unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_util_linux_reads_them() {
        let ok = |text: &str| text.parse::<Size>().map(|s| s.0);
        assert_eq!(ok("0"), Ok(0));
        assert_eq!(ok("512"), Ok(512));
        assert_eq!(ok("0x200"), Ok(512));
        assert_eq!(ok("64G"), Ok(64 << 30));
        assert_eq!(ok("64g"), Ok(64 << 30));
        assert_eq!(ok("256MiB"), Ok(256 << 20));
        assert_eq!(ok("256 MiB"), Ok(256 << 20));
        assert_eq!(ok("1KB"), Ok(1000));
        assert_eq!(ok("2TB"), Ok(2_000_000_000_000));
        assert_eq!(ok("1.5G"), Ok(3 << 29));
        assert_eq!(ok("1.50KB"), Ok(1500));
        assert_eq!(ok("1.G"), Ok(1 << 30));
        assert_eq!(ok("15E"), Ok(15 << 60));
        assert_eq!(ok("12B"), Ok(12));
    }

    #[test]
    fn what_is_no_size_is_refused_with_the_reason() {
        let no = |text: &str| text.parse::<Size>().unwrap_err();
        assert_eq!(no(""), SizeError::NoNumber);
        assert_eq!(no("G"), SizeError::NoNumber);
        assert_eq!(no("-1"), SizeError::NoNumber);
        assert_eq!(no("+1"), SizeError::NoNumber);
        assert_eq!(no("0x"), SizeError::NoNumber);
        assert_eq!(no("0x+1"), SizeError::Suffix("+1".into()));
        assert_eq!(no("64Q"), SizeError::Suffix("Q".into()));
        assert_eq!(no("64Gb it"), SizeError::Suffix("Gb it".into()));
        assert_eq!(no("1 2"), SizeError::Suffix("2".into()));
        assert_eq!(no("16E"), SizeError::TooLarge);
        assert_eq!(no("18446744073709551616"), SizeError::TooLarge);
        assert_eq!(no("0.3K"), SizeError::Fraction);
        assert_eq!(no("0.5"), SizeError::Fraction);
    }

    #[test]
    fn sizes_are_shown_short() {
        let show = |bytes| Size(bytes).to_string();
        assert_eq!(show(0), "0 B");
        assert_eq!(show(512), "512 B");
        assert_eq!(show(64 << 30), "64 GiB");
        assert_eq!(show(3 << 29), "1.5 GiB");
        assert_eq!(show((1 << 30) + 1), "~1.0 GiB");
        assert_eq!(show(u64::MAX), "~16.0 EiB");
        assert_eq!(format!("{:>8}|", Size(1024)), "   1 KiB|");
    }
}
