//! Where the bytes of a write come from.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use zvb_wire::SECTOR_BYTES;

/// Why there are no more bytes, or not the right number of them.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InputError {
    #[error("cannot open {}", .0.display())]
    Open(PathBuf, #[source] io::Error),
    #[error("cannot read {0}")]
    Read(String, #[source] io::Error),
    #[error("{name} ends after {got} of the {wanted} bytes of --length")]
    Short { name: String, got: u64, wanted: u64 },
    #[error(
        "{name} has {bytes} bytes, which is no multiple of the {unit} that the disk writes; --pad fills the last block up with zeroes"
    )]
    Odd { name: String, bytes: u64, unit: u32 },
    #[error("--length {sectors} is no multiple of the {} sectors that the disk writes", *unit / 512)]
    OddLength { sectors: u64, unit: u32 },
}

/// A file or standard input, cut into whole blocks.
pub(crate) struct Input {
    reader: BufReader<Box<dyn Read>>,
    name: String,
    /// What writes are a multiple of, in bytes.
    unit: u32,
    pad: bool,
    /// Bytes that are wanted in all, where that was said.
    wanted: Option<u64>,
    /// Bytes that there will be, where that is known.
    total: Option<u64>,
    taken: u64,
}

impl Input {
    /// `file`, or standard input for none and `-`; `length` sectors of it or all; writes are a multiple
    /// of `unit` bytes.
    pub(crate) fn open(
        file: Option<&Path>,
        length: Option<u64>,
        pad: bool,
        unit: u32,
    ) -> Result<Self, InputError> {
        let wanted = match length {
            Some(sectors) => match sectors.checked_mul(SECTOR_BYTES) {
                Some(bytes) if bytes.is_multiple_of(u64::from(unit)) => Some(bytes),
                _ => return Err(InputError::OddLength { sectors, unit }),
            },
            None => None,
        };
        let (reader, name, size): (Box<dyn Read>, _, _) = match file {
            Some(path) if path != Path::new("-") => {
                let failed = |e| InputError::Open(path.to_owned(), e);
                let file = File::open(path).map_err(failed)?;
                let metadata = file.metadata().map_err(failed)?;
                let size = metadata.is_file().then_some(metadata.len());
                (Box::new(file), path.display().to_string(), size)
            }
            _ => (Box::new(io::stdin()), "standard input".to_owned(), None),
        };
        let input = Self {
            reader: BufReader::new(reader),
            name,
            unit,
            pad,
            wanted,
            total: wanted.or(size),
            taken: 0,
        };
        // What is known to be wrong is refused before anything is written.
        if let Some(bytes) = size {
            input.check_end(bytes)?;
        }
        Ok(input)
    }

    /// Bytes that there will be, where that is known.
    pub(crate) fn total(&self) -> Option<u64> {
        self.total
    }

    /// True when there is nothing left to take. Waits for the input to tell.
    pub(crate) fn is_at_end(&mut self) -> Result<bool, InputError> {
        if self.wanted == Some(self.taken) {
            return Ok(true);
        }
        match self.reader.fill_buf() {
            Ok([]) => {
                self.check_end(self.taken)?;
                Ok(true)
            }
            Ok(_) => Ok(false),
            Err(e) => Err(InputError::Read(self.name.clone(), e)),
        }
    }

    /// Fills `into`, whose length is a multiple of the unit, and returns how many bytes of it count: a
    /// multiple of the unit, less than all only at the end.
    pub(crate) fn fill(&mut self, into: &mut [u8]) -> Result<usize, InputError> {
        let left = self.wanted.map_or(u64::MAX, |wanted| wanted.saturating_sub(self.taken));
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(into.len());
        let mut filled = 0;
        while let Some(rest) = into.get_mut(filled..most)
            && !rest.is_empty()
        {
            match self.reader.read(rest) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(InputError::Read(self.name.clone(), e)),
            }
        }
        self.taken = self.taken.saturating_add(filled as u64);
        if filled < most {
            self.check_end(self.taken)?;
        }
        let unit = self.unit as usize;
        let whole = filled.next_multiple_of(unit).min(into.len());
        if let Some(padding) = into.get_mut(filled..whole) {
            padding.fill(0);
        }
        Ok(whole)
    }

    /// Whether the input may end after `bytes`.
    fn check_end(&self, bytes: u64) -> Result<(), InputError> {
        match self.wanted {
            Some(wanted) if bytes >= wanted => Ok(()),
            Some(wanted) => Err(InputError::Short { name: self.name.clone(), got: bytes, wanted }),
            None if self.pad || bytes.is_multiple_of(u64::from(self.unit)) => Ok(()),
            None => Err(InputError::Odd { name: self.name.clone(), bytes, unit: self.unit }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(bytes: usize) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&vec![7; bytes]).unwrap();
        file
    }

    #[test]
    fn blocks_come_whole() {
        let file = file(4096 * 3);
        let mut input = Input::open(Some(file.path()), None, false, 4096).unwrap();
        let mut buffer = vec![0; 8192];
        assert_eq!(input.total(), Some(12288));
        assert_eq!(input.fill(&mut buffer).unwrap(), 8192);
        assert!(!input.is_at_end().unwrap());
        assert_eq!(input.fill(&mut buffer).unwrap(), 4096);
        assert!(input.is_at_end().unwrap());
        assert_eq!(input.fill(&mut buffer).unwrap(), 0);
    }

    #[test]
    fn an_odd_end_is_refused_or_padded() {
        let file = file(5000);
        let open = |pad, length| Input::open(Some(file.path()), length, pad, 4096);
        assert!(matches!(open(false, None), Err(InputError::Odd { bytes: 5000, .. })));
        let mut padded = open(true, None).unwrap();
        let mut buffer = vec![9; 8192];
        assert_eq!(padded.fill(&mut buffer).unwrap(), 8192);
        assert!(buffer[..5000].iter().all(|b| *b == 7) && buffer[5000..].iter().all(|b| *b == 0));
        assert!(padded.is_at_end().unwrap());
    }

    #[test]
    fn a_length_takes_so_much_and_no_more() {
        let file = file(5000);
        let open = |length| Input::open(Some(file.path()), Some(length), true, 4096);
        let mut input = open(8).unwrap();
        let mut buffer = vec![9; 8192];
        assert_eq!(input.fill(&mut buffer).unwrap(), 4096);
        assert!(input.is_at_end().unwrap());
        assert!(matches!(open(16), Err(InputError::Short { got: 5000, wanted: 8192, .. })));
        assert!(matches!(open(9), Err(InputError::OddLength { .. })));
        assert!(matches!(open(u64::MAX), Err(InputError::OddLength { .. })));
    }

    #[test]
    fn a_directory_or_nothing_can_not_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let mut input = Input::open(Some(dir.path()), None, false, 512).unwrap();
        assert!(matches!(input.is_at_end(), Err(InputError::Read(..))));
        let nothing = dir.path().join("nothing");
        assert!(matches!(Input::open(Some(&nothing), None, false, 512), Err(InputError::Open(..))));
    }
}
