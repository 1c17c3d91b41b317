//! What a run has to say.

use alloc::string::String;

/// How strongly a statement binds (RFC 2119).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Level {
    /// MUST, MUST NOT, SHALL.
    Must,
    /// SHOULD, SHOULD NOT.
    Should,
    /// MAY.
    May,
    /// Text that describes, without a keyword.
    Described,
}

impl Level {
    /// In small letters: "must", "should", "may" or "desc".
    pub const fn name(self) -> &'static str {
        match self {
            Self::Must => "must",
            Self::Should => "should",
            Self::May => "may",
            Self::Described => "desc",
        }
    }
}

/// What came of one statement.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Everything that was tried was answered as it must be.
    Pass,
    /// The first thing that was not.
    Fail {
        /// What should have come.
        expected: String,
        /// What came.
        got: String,
    },
    /// This device can not show it, or no device can, seen from here.
    NotApplicable {
        /// The reason.
        why: String,
    },
}

/// One statement, tried.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Its number in the conformance list.
    pub number: u16,
    /// What it says, in short.
    pub title: &'static str,
    /// How strongly.
    pub level: Level,
    /// What came of it.
    pub verdict: Verdict,
}

/// The outcomes, counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// Statements that hold.
    pub passed: u32,
    /// Statements that do not.
    pub failed: u32,
    /// Statements that could not be tried.
    pub not_applicable: u32,
}

impl Summary {
    pub(crate) fn count(&mut self, verdict: &Verdict) {
        let counter = match verdict {
            Verdict::Pass => &mut self.passed,
            Verdict::Fail { .. } => &mut self.failed,
            Verdict::NotApplicable { .. } => &mut self.not_applicable,
        };
        *counter = counter.saturating_add(1);
    }
}

/// Why the checks of a statement ended early.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The statement does not hold.
    Fail { expected: String, got: String },
    /// It can not be tried.
    Skip(String),
    /// The way to the device broke, which no statement allows.
    Link(String),
    /// There is no use to go on at all.
    Abort(String),
}

/// How the checks of a statement go: nothing to say, or why they ended.
pub(crate) type Checked<T = ()> = Result<T, Stop>;

/// The statement does not hold.
pub(crate) fn fail<T>(expected: impl Into<String>, got: impl Into<String>) -> Checked<T> {
    Err(Stop::Fail { expected: expected.into(), got: got.into() })
}

/// The statement can not be tried.
pub(crate) fn skip<T>(why: impl Into<String>) -> Checked<T> {
    Err(Stop::Skip(why.into()))
}
