//! Zones that are made to fail, and to be sound again, behind the guest's back.

use std::ops::Range;
use std::sync::PoisonError;

use zvb_zones::{Refusal, Snapshot, ZoneId};

use crate::device::Device;

pub use zvb_zones::Forced;

/// Why zones are left as they were.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ForceError {
    /// A plain disk.
    #[error("the disk has no zones")]
    NotZoned,
    /// No zones, or not of this disk.
    #[error("zones {first} to {} are not zones of the disk, which has {count}, from 0", .end.saturating_sub(1))]
    NoSuchZones {
        /// The first.
        first: u32,
        /// One past the last.
        end: u32,
        /// How many the disk has.
        count: u32,
    },
    /// Nothing may change.
    #[error("the disk is read-only: no zone of it changes")]
    ReadOnly,
    /// A host's device keeps its zones itself.
    #[error("the zones are those of a device of the host, and only that one makes them fail")]
    OfTheHost,
    /// What is done now will not be remembered.
    #[error("an earlier failure of the medium made the disk read-only: no zone of it changes")]
    Failed,
    /// Writes to it that were in flight when it failed are not over yet.
    #[error("writes to zone {} are still in flight", zone.0)]
    Busy {
        /// Which.
        zone: ZoneId,
    },
    /// One more active zone than may be.
    #[error("zone {} would be active again: {refusal}", zone.0)]
    Refused {
        /// Which.
        zone: ZoneId,
        /// Why not.
        refusal: Refusal,
    },
}

impl Device {
    /// Makes `zones` read-only, offline, or sound again; all of them or none. Requests see it from now on,
    /// writes in flight to them fail, and the medium remembers it as it does every state of a zone. The
    /// driver is told to look again, as far as its transport can tell it.
    pub fn force_zones(&self, zones: Range<u32>, to: Forced) -> Result<(), ForceError> {
        let Some(table) = &self.table else { return Err(ForceError::NotZoned) };
        let count = table.geometry().zone_count();
        let Range { start: first, end } = zones;
        if first >= end || end > count {
            return Err(ForceError::NoSuchZones { first, end, count });
        }
        if self.shape.read_only {
            return Err(ForceError::ReadOnly);
        }
        if self.runs_commands {
            return Err(ForceError::OfTheHost);
        }
        if self.has_failed() {
            return Err(ForceError::Failed);
        }
        let mut locked = table.lock();
        let mut changed = Vec::new();
        let mut result = Ok(());
        for zone in (first..end).map(ZoneId) {
            let before = locked.zones().snapshot(zone).condition();
            // A medium is not told of an empty zone while something is written to it.
            result = if to == Forced::Restored && locked.zones().is_busy(zone) {
                Err(ForceError::Busy { zone })
            } else {
                let set = locked.zones().set_condition(zone, to);
                set.map_err(|refusal| ForceError::Refused { zone, refusal })
            };
            if result.is_err() {
                break;
            }
            changed.push((zone, before));
        }
        if result.is_err() {
            // Only what fails now is ever refused to be sound: what it was can always be again.
            for (zone, before) in changed {
                let back = match before {
                    zvb_wire::Condition::ReadOnly => Forced::ReadOnly,
                    zvb_wire::Condition::Offline => Forced::Offline,
                    _ => continue,
                };
                let restored = locked.zones().set_condition(zone, back);
                debug_assert!(restored.is_ok(), "zones fail whatever the limits are");
            }
        }
        // Who waited for room or for these zones may go on.
        if locked.settle()
            && let Some(guest) = self.guest.lock().unwrap_or_else(PoisonError::into_inner).upgrade()
        {
            guest.retry_all(None);
        }
        if result.is_ok() {
            self.announce_config_change();
        }
        result
    }

    /// The states of all zones at one moment; nothing for a plain disk.
    pub fn zone_states(&self) -> Vec<Snapshot> {
        let Some(table) = &self.table else { return Vec::new() };
        // What is published changes under the lock only.
        let _locked = table.lock();
        table.geometry().zones().map(|zone| table.snapshot(zone)).collect()
    }
}
