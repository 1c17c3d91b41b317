//! Which signals of the device each queue has seen.
#![cfg_attr(
    not(any(feature = "pci", feature = "mmio")),
    allow(dead_code, reason = "no transport is built")
)]

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use super::{BusError, Platform};

/// A device has one register that says that *some* queue was used, and reading it (PCI) or acknowledging
/// it (MMIO) clears it. So a signal that one queue's waiter takes is counted here, for all.
pub(crate) struct Signals {
    count: AtomicU32,
    config_changes: AtomicU32,
    /// The count that each queue's last wait ended with.
    seen: Vec<AtomicU32>,
}

/// The interrupt causes that both transports know (virtio 4.1.4.5, 4.2.2): a queue was used.
pub(crate) const QUEUE: u8 = 1;
/// The configuration changed.
pub(crate) const CONFIG: u8 = 2;

impl Signals {
    pub(crate) fn new(queues: u16) -> Arc<Self> {
        Arc::new(Self {
            count: AtomicU32::new(0),
            config_changes: AtomicU32::new(0),
            seen: (0..queues).map(|_| AtomicU32::new(0)).collect(),
        })
    }

    /// Counts what the device has just told; true when that was anything.
    pub(crate) fn note(&self, causes: u8) -> bool {
        if causes & CONFIG != 0 {
            self.config_changes.fetch_add(1, Ordering::Relaxed);
        }
        let any = causes & (QUEUE | CONFIG) != 0;
        if any {
            // A change of the configuration is worth a look by whoever waits, too.
            self.count.fetch_add(1, Ordering::Release);
        }
        any
    }

    /// How often the configuration changed.
    pub(crate) fn config_changes(&self) -> u32 {
        self.config_changes.load(Ordering::Relaxed)
    }

    /// A number that changes with the device's `generation`, and with each signal that the configuration
    /// changed: what that is about (NEEDS_RESET, say) may be no change of a field.
    pub(crate) fn generation(&self, generation: u32) -> u32 {
        generation.wrapping_add(self.config_changes().wrapping_mul(0x0100_0100))
    }

    /// Nothing that was told before concerns anyone: the device was reset.
    pub(crate) fn forget(&self) {
        let count = self.count.load(Ordering::Acquire);
        self.seen.iter().for_each(|seen| seen.store(count, Ordering::Relaxed));
    }

    /// Waits for a signal that queue `queue` has not seen, which `look` asks the device for.
    pub(crate) fn wait(
        &self,
        queue: u16,
        timeout_ms: Option<u32>,
        platform: &impl Platform,
        look: &dyn Fn() -> u8,
    ) -> Result<(), BusError> {
        let seen = self.seen.get(usize::from(queue)).ok_or(BusError::NoQueue(queue))?;
        let before = seen.load(Ordering::Relaxed);
        let signalled = || {
            self.note(look());
            self.count.load(Ordering::Acquire) != before
        };
        let start = platform.now_ms();
        while !signalled() {
            if let Some(milliseconds) = timeout_ms
                && platform.now_ms().saturating_sub(start) >= milliseconds.into()
            {
                return Err(BusError::Silent { queue, milliseconds });
            }
            platform.idle(&signalled);
        }
        seen.store(self.count.load(Ordering::Acquire), Ordering::Relaxed);
        Ok(())
    }
}
