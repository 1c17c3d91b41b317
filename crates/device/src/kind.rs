//! Kinds of requests: what faults are chosen by and statistics are kept for.

use zvb_zones::Manage;

use crate::request::Request;

/// What a request does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Kind {
    /// IN.
    Read,
    /// OUT.
    Write,
    /// ZONE_APPEND.
    Append,
    /// FLUSH.
    Flush,
    /// GET_ID.
    Id,
    /// ZONE_REPORT.
    Report,
    /// ZONE_OPEN.
    Open,
    /// ZONE_CLOSE.
    Close,
    /// ZONE_FINISH.
    Finish,
    /// ZONE_RESET.
    Reset,
    /// ZONE_RESET_ALL.
    ResetAll,
    /// DISCARD.
    Discard,
    /// WRITE_ZEROES.
    WriteZeroes,
    /// SECURE_ERASE.
    SecureErase,
    /// What was answered as it came: malformed, not negotiated, past the end, a change to a disk that is
    /// read-only.
    Refused,
}

impl Kind {
    /// All of them, in order.
    pub const ALL: [Self; 15] = [
        Self::Read,
        Self::Write,
        Self::Append,
        Self::Flush,
        Self::Id,
        Self::Report,
        Self::Open,
        Self::Close,
        Self::Finish,
        Self::Reset,
        Self::ResetAll,
        Self::Discard,
        Self::WriteZeroes,
        Self::SecureErase,
        Self::Refused,
    ];

    /// Its name in text.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Append => "append",
            Self::Flush => "flush",
            Self::Id => "id",
            Self::Report => "report",
            Self::Open => "open",
            Self::Close => "close",
            Self::Finish => "finish",
            Self::Reset => "reset",
            Self::ResetAll => "reset-all",
            Self::Discard => "discard",
            Self::WriteZeroes => "write-zeroes",
            Self::SecureErase => "secure-erase",
            Self::Refused => "refused",
        }
    }

    /// The kind of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// True for requests that concern sectors or a zone, and not the whole disk.
    pub const fn has_place(self) -> bool {
        !matches!(self, Self::Flush | Self::Id | Self::ResetAll | Self::Refused)
    }

    pub(crate) fn of(request: &Request) -> Self {
        match request {
            Request::Read { .. } => Self::Read,
            Request::Write { .. } => Self::Write,
            Request::Append { .. } => Self::Append,
            Request::Flush => Self::Flush,
            Request::Id => Self::Id,
            Request::Report { .. } => Self::Report,
            Request::Manage { command: Manage::Open, .. } => Self::Open,
            Request::Manage { command: Manage::Close, .. } => Self::Close,
            Request::Manage { command: Manage::Finish, .. } => Self::Finish,
            Request::Manage { command: Manage::Reset, .. } => Self::Reset,
            Request::ResetAll => Self::ResetAll,
            Request::Discard => Self::Discard,
            Request::Zero => Self::WriteZeroes,
            Request::Erase => Self::SecureErase,
        }
    }
}

/// A set of kinds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Kinds(u16);

impl Kinds {
    /// Every kind that a fault can be for: all but [`Kind::Refused`].
    pub fn all() -> Self {
        Kind::ALL.into_iter().filter(|kind| *kind != Kind::Refused).collect()
    }

    /// True when `kind` is one of them.
    pub const fn contains(self, kind: Kind) -> bool {
        self.0 & 1 << kind as u8 != 0
    }

    /// True when there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those in it, in order.
    pub fn iter(self) -> impl Iterator<Item = Kind> {
        Kind::ALL.into_iter().filter(move |kind| self.contains(*kind))
    }
}

impl FromIterator<Kind> for Kinds {
    fn from_iter<I: IntoIterator<Item = Kind>>(kinds: I) -> Self {
        Self(kinds.into_iter().fold(0, |set, kind| set | 1 << kind as u8))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_name_and_a_place_of_its_own() {
        for (place, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, place);
            assert_eq!(Kind::from_name(kind.name()), Some(kind));
            let alone = Kinds::from_iter([kind]);
            assert_eq!(alone.iter().collect::<Vec<_>>(), [kind]);
        }
        assert_eq!(Kinds::all().iter().count(), Kind::ALL.len() - 1);
        assert!(!Kinds::all().contains(Kind::Refused));
        assert_eq!(Kind::from_name("shut"), None);
    }
}
