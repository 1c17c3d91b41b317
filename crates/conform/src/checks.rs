//! What is tried for each statement, by the sections of the list.

pub(crate) mod basic;
pub(crate) mod init;
pub(crate) mod limits;
pub(crate) mod notify;
pub(crate) mod report;
pub(crate) mod ring;
pub(crate) mod transitions;
pub(crate) mod zoned;
