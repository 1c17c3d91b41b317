//! The control protocol: one JSON object on a line for a command, one for its answer. docs/control.md
//! describes it.

pub(crate) mod desk;

use serde::{Deserialize, Serialize};
use zvb_wire::Status;

/// A command.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Request {
    /// Makes zones fail, or sound again.
    SetZones {
        zone: u32,
        #[serde(default = "one")]
        count: u32,
        to: ZoneTo,
    },
    /// Sets a fault.
    SetFault(FaultRequest),
    /// Lists faults.
    Faults {},
    /// Clears one fault, or all.
    ClearFaults {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<u32>,
    },
    /// Counters.
    Stats {},
    /// The table of zones.
    Dump {},
    /// Makes the disk larger: 512-byte sectors.
    Resize { capacity: u64 },
    /// Ends the server.
    Quit {},
}

/// What becomes of zones.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ZoneTo {
    ReadOnly,
    Offline,
    Restored,
}

/// What befalls requests.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Effect {
    Fail,
    Tear,
    Delay,
}

/// A fault: what is asked for, and what is listed.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub(crate) struct FaultRequest {
    pub(crate) kinds: Vec<String>,
    pub(crate) effect: Effect,
    /// Of the failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<String>,
    /// Of a torn write: 512-byte sectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) keep: Option<u64>,
    #[serde(default)]
    pub(crate) delay_ms: u32,
    /// How many requests; all until it is cleared when that is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) next: Option<u32>,
    /// Where: zones, or 512-byte sectors, or everywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) zone: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) count: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sector: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) length: Option<u64>,
}

const fn one() -> u32 {
    1
}

/// The statuses that can be asked for, by name.
pub(crate) const STATUSES: [(&str, Status); 6] = [
    ("ioerr", Status::IOERR),
    ("unsupp", Status::UNSUPP),
    ("zone-invalid", Status::ZONE_INVALID_CMD),
    ("zone-unaligned", Status::ZONE_UNALIGNED_WP),
    ("zone-open-resource", Status::ZONE_OPEN_RESOURCE),
    ("zone-active-resource", Status::ZONE_ACTIVE_RESOURCE),
];

/// The name of a status.
pub(crate) fn status_name(status: Status) -> &'static str {
    STATUSES.iter().find(|(_, s)| *s == status).map_or("unknown", |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Request, String> {
        serde_json::from_str(text).map_err(|e| e.to_string())
    }

    #[test]
    fn commands_are_read_as_they_are_documented() {
        assert_eq!(
            parse(r#"{"command": "set-zones", "zone": 5, "to": "read-only"}"#),
            Ok(Request::SetZones { zone: 5, count: 1, to: ZoneTo::ReadOnly })
        );
        let fault = parse(
            r#"{"command": "set-fault", "kinds": ["write"], "effect": "tear", "keep": 8, "next": 2,
                "sector": 64, "length": 8}"#,
        );
        let Ok(Request::SetFault(fault)) = fault else { panic!("{fault:?}") };
        assert_eq!((fault.effect, fault.keep, fault.next), (Effect::Tear, Some(8), Some(2)));
        assert_eq!((fault.delay_ms, fault.sector, fault.zone), (0, Some(64), None));
        assert_eq!(parse(r#"{"command": "quit"}"#), Ok(Request::Quit {}));
        for wrong in [
            "",
            "7",
            "{}",
            "[]",
            r#"{"command": "explode"}"#,
            r#"{"command": "quit", "now": true}"#,
            r#"{"command": "set-zones", "zone": -1, "to": "offline"}"#,
            r#"{"command": "set-zones", "zone": 4294967296, "to": "offline"}"#,
            r#"{"command": "set-fault", "kinds": ["write"], "effect": "fail", "sttaus": "ioerr"}"#,
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_sent_is_what_is_read() {
        let fault = FaultRequest {
            kinds: vec!["read".into()],
            effect: Effect::Delay,
            status: None,
            keep: None,
            delay_ms: 5,
            next: Some(1),
            zone: Some(3),
            count: Some(2),
            sector: None,
            length: None,
        };
        for request in [
            Request::SetFault(fault),
            Request::ClearFaults { id: Some(3) },
            Request::ClearFaults { id: None },
            Request::Stats {},
        ] {
            let text = serde_json::to_string(&request).unwrap();
            assert_eq!(parse(&text), Ok(request), "{text}");
        }
    }
}
