//! Chains in flight, remembered where the death of a process does not reach.

/// Where a [`DeviceQueue`](super::DeviceQueue) writes down which chains are in flight, so that whoever takes
/// the queue over after the death of this process finishes each of them, and none twice.
///
/// What is written must be found, in the order of the calls, at whatever instant the process dies.
pub trait Ledger {
    /// The chain at `head` is taken. Nothing has been done about it.
    fn taken(&mut self, head: u16);

    /// The device keeps `note` about the chain at `head`, which is in flight; the last one counts.
    fn note(&mut self, head: u16, note: u64);

    /// The chain at `head` is answered with the used element at the free-running `position`, which the driver
    /// does not see yet.
    fn answered(&mut self, head: u16, position: u16);

    /// The driver sees all that was answered.
    fn published(&mut self);
}

/// A chain that was taken before, and not answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unanswered {
    /// Its first descriptor.
    pub head: u16,
    /// The last note about it; 0 when there is none.
    pub note: u64,
}
