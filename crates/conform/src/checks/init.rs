//! A: what the device says of itself before it is used.

use alloc::format;
use alloc::string::String;

use zerocopy::IntoBytes;
use zvb_wire::{Config, Features, Model, RequestType, Status, ZonedCharacteristics};

use crate::disk::{CONVENTIONAL, PREFERRED, REQUIRED, pattern};
use crate::outcome::{Checked, Stop, fail, skip};
use crate::request::Request;
use crate::rig::{DATA_BYTES, Rig};

pub(crate) fn needs(rig: &Rig<'_>, feature: Features, name: &str) -> Checked {
    if rig.offered.contains(feature) {
        Ok(())
    } else {
        skip(format!("the device does not offer {name}"))
    }
}

/// 1
pub(crate) fn offers_flush(rig: &mut Rig<'_>) -> Checked {
    if rig.offered.contains(Features::FLUSH) {
        return Ok(());
    }
    fail("the feature FLUSH is offered", "it is not")
}

/// 2
pub(crate) fn wce_needs_flush(rig: &mut Rig<'_>) -> Checked {
    needs(rig, Features::CONFIG_WCE, "CONFIG_WCE")?;
    if rig.offered.contains(Features::FLUSH) {
        return Ok(());
    }
    fail("FLUSH is offered beside CONFIG_WCE", "it is not")
}

/// 3
pub(crate) fn writethrough_without_flush(rig: &mut Rig<'_>) -> Checked {
    needs(rig, Features::CONFIG_WCE, "CONFIG_WCE")?;
    let features = rig.usual() - Features::FLUSH;
    rig.up_or_skip(features)?;
    let writeback = rig.read_config().map_err(Stop::Link)?.writeback;
    if writeback == 0 {
        return Ok(());
    }
    fail("writeback is 0 without FLUSH", format!("{writeback}"))
}

/// 4
pub(crate) fn unused_is_zero(rig: &mut Rig<'_>) -> Checked {
    let fresh = rig.config;
    rig.ready()?;
    let later = rig.read_config().map_err(Stop::Link)?;
    for config in [fresh, later] {
        if (config.unused0, config.unused1) != (0, [0; 3]) {
            let got = format!("{} and {:?}", config.unused0, config.unused1);
            return fail("unused0 and unused1 are 0", got);
        }
    }
    Ok(())
}

/// 5
pub(crate) fn plain_offers_no_zones(rig: &mut Rig<'_>) -> Checked {
    match rig.model() {
        Some(Model::None) => skip("a drive-managed device and one without zones look the same"),
        Some(_) | None => Ok(()),
    }
}

/// 7
pub(crate) fn zones_hidden_without_zoned(rig: &mut Rig<'_>) -> Checked {
    match rig.model() {
        None => return skip("the device does not offer ZONED"),
        Some(Model::HostManaged) => return skip("the device is host-managed"),
        Some(Model::None | Model::HostAware) => {}
    }
    let features = rig.usual() - Features::ZONED;
    if !rig.up(features)? {
        return fail("FEATURES_OK without ZONED", "it is refused");
    }
    let config = rig.read_config().map_err(Stop::Link)?;
    if config.zoned == ZonedCharacteristics::default() {
        return Ok(());
    }
    fail("zeroes in all fields of `zoned` without ZONED", format!("{:?}", config.zoned))
}

/// 8
pub(crate) fn host_managed_wants_zoned(rig: &mut Rig<'_>) -> Checked {
    if rig.model() != Some(Model::HostManaged) {
        return skip("the device is not host-managed");
    }
    let features = rig.usual() - Features::ZONED;
    if !rig.negotiate(features)? {
        return Ok(());
    }
    // A transport without a status can only show it by what comes after.
    let works = rig
        .set_up_queues(1)
        .and_then(|()| rig.go(features))
        .and_then(|()| rig.ask(&Request::new(RequestType::IN, 0).into(512)));
    rig.spoil();
    match works {
        Ok(answer) => {
            let got = format!("it is set, and a read is answered with {}", answer.status);
            fail("FEATURES_OK without ZONED is refused by a host-managed device", got)
        }
        Err(_) => rig.recover().map_err(Stop::Abort),
    }
}

/// 9, 10 and 11: the model, by the zones that are there.
fn model_fits(rig: &mut Rig<'_>, kind: u8, model: Model) -> Checked {
    rig.zoned()?;
    if !rig.zones()?.iter().any(|zone| zone.kind == kind) {
        return skip(format!("no zone has the type {kind}"));
    }
    if rig.model() == Some(model) {
        return Ok(());
    }
    fail(format!("the model of a device with such zones is {model:?}"), told_model(rig))
}

fn told_model(rig: &Rig<'_>) -> String {
    format!("{}", rig.config.zoned.model)
}

/// 9
pub(crate) fn model_none(rig: &mut Rig<'_>) -> Checked {
    if !rig.offered.contains(Features::ZONED) {
        return skip("the device does not offer ZONED");
    }
    match Model::try_from(rig.config.zoned.model) {
        Ok(Model::None) => {}
        Ok(_) => return skip("the device is host-managed or host-aware"),
        Err(_) => return fail("the model is 0, 1 or 2", told_model(rig)),
    }
    rig.ready()?;
    let room = 64 + 64;
    let answer = rig.ask(&Request::new(RequestType::ZONE_REPORT, 0).into(room))?;
    let kind = answer.data.get(64 + 24).copied().unwrap_or(0);
    if answer.status == Status::OK && matches!(kind, REQUIRED | PREFERRED) {
        return fail("no sequential zones with the model none", format!("a zone of type {kind}"));
    }
    Ok(())
}

/// 10
pub(crate) fn model_host_managed(rig: &mut Rig<'_>) -> Checked {
    model_fits(rig, REQUIRED, Model::HostManaged)
}

/// 11
pub(crate) fn model_host_aware(rig: &mut Rig<'_>) -> Checked {
    model_fits(rig, PREFERRED, Model::HostAware)
}

/// 12
pub(crate) fn zones_are_equal(rig: &mut Rig<'_>) -> Checked {
    rig.zoned()?;
    let size = u64::from(rig.config.zoned.zone_sectors.get());
    let capacity = rig.config.capacity.get();
    if size == 0 {
        return fail("zone_sectors is the size of a zone", "0");
    }
    let zones = rig.zones()?;
    for (index, zone) in (0u64..).zip(&zones) {
        if zone.start != index.saturating_mul(size) {
            let expected = format!("zone {index} begins at {}", index.saturating_mul(size));
            return fail(expected, format!("{}", zone.start));
        }
    }
    let last = capacity.saturating_sub(1) / size * size;
    let report = rig.report(last, 2)?;
    match report.as_slice() {
        [zone] if zone.start == last => {}
        other => {
            let starts: alloc::vec::Vec<u64> = other.iter().map(|zone| zone.start).collect();
            let expected = format!("the last zone alone, at {last}, in a report from there");
            return fail(expected, format!("zones at {starts:?}"));
        }
    }
    let count = capacity.div_ceil(size);
    let told = zones.len() as u64;
    let whole = zones.last().is_some_and(|zone| zone.start == last);
    if whole && told != count {
        return fail(format!("{count} zones in all"), format!("{told}"));
    }
    Ok(())
}

/// 15
pub(crate) fn largest_append(rig: &mut Rig<'_>) -> Checked {
    let zone = rig.fresh_required_one()?;
    let most = u64::from(rig.config.zoned.max_append_sectors.get());
    if most == 0 {
        return skip("the device does not support ZONE_APPEND");
    }
    if most.saturating_mul(512) > DATA_BYTES || most > rig.most_sectors() {
        return skip("the largest append is larger than this run sends");
    }
    if most > zone.capacity {
        return skip("the largest append is larger than a zone");
    }
    let (status, _) = rig.append(zone.start, &pattern(15, most.saturating_mul(512)))?;
    crate::disk::expect(&format!("an append of {most} sectors"), status, &[Status::OK])
}

/// 16
pub(crate) fn append_fits_segments(rig: &mut Rig<'_>) -> Checked {
    rig.zoned()?;
    needs(rig, Features::SEG_MAX, "SEG_MAX")?;
    needs(rig, Features::SIZE_MAX, "SIZE_MAX")?;
    let bytes = u64::from(rig.config.zoned.max_append_sectors.get()).saturating_mul(512);
    let (seg, size) = (rig.config.seg_max.get(), rig.config.size_max.get());
    let most = u64::from(seg).saturating_mul(size.into());
    if bytes <= most {
        return Ok(());
    }
    fail(
        format!("max_append_sectors of at most seg_max * size_max, {most} bytes"),
        format!("{bytes} bytes"),
    )
}

/// 17 and 56
pub(crate) fn no_append_is_unsupported(rig: &mut Rig<'_>) -> Checked {
    let zone = rig.fresh_one()?;
    if rig.appends() {
        return skip("the device supports ZONE_APPEND");
    }
    let data = pattern(17, rig.unit_bytes());
    let request = Request::new(RequestType::ZONE_APPEND, zone.start).with(&data);
    rig.refused("an append with max_append_sectors 0", &request, &zone, &[Status::UNSUPP])
}

/// 18
pub(crate) fn granularity_is_enough(rig: &mut Rig<'_>) -> Checked {
    let zone = rig.fresh_one()?;
    let granularity = u64::from(rig.config.zoned.write_granularity.get());
    if granularity == 0 || granularity % 512 != 0 {
        return fail("a write granularity of one or more sectors", format!("{granularity} bytes"));
    }
    if granularity > DATA_BYTES {
        return skip("the write granularity is larger than this run sends");
    }
    let sectors = granularity / 512;
    let mut at = zone.start;
    for i in 0..3 {
        if at.saturating_add(sectors) > zone.limit() {
            break;
        }
        let data = pattern(i, granularity);
        let status = rig.write(at, &data)?;
        let what = format!("OUT of {granularity} bytes at the write pointer");
        crate::disk::expect(&what, status, &[Status::OK])?;
        at = at.saturating_add(sectors);
    }
    if zone.kind == REQUIRED && rig.appends() && at < zone.limit() {
        let (status, _) = rig.append(zone.start, &pattern(3, granularity))?;
        let what = format!("an append of {granularity} bytes");
        crate::disk::expect(&what, status, &[Status::OK])?;
    }
    Ok(())
}

/// 19
pub(crate) fn unused2_is_zero(rig: &mut Rig<'_>) -> Checked {
    rig.zoned()?;
    let config = rig.read_config().map_err(Stop::Link)?;
    for unused in [rig.config.zoned.unused2, config.zoned.unused2] {
        if unused != [0; 3] {
            return fail("unused2 is 0", format!("{unused:?}"));
        }
    }
    Ok(())
}

/// 20
pub(crate) fn characteristics_are_read_only(rig: &mut Rig<'_>) -> Checked {
    rig.zoned()?;
    let before = rig.read_config().map_err(Stop::Link)?;
    for (offset, len) in [(72u32, 4usize), (84, 4), (88, 4), (92, 1)] {
        let mut bytes = [0; 4];
        let start = offset as usize;
        if let Some(now) = before.as_bytes().get(start..start.saturating_add(len)) {
            for (to, from) in bytes.iter_mut().zip(now) {
                *to = !from;
            }
        }
        // A transport may say that it can not be written.
        let _ = rig.link.write_config(offset, bytes.get(..len).unwrap_or(&bytes));
        rig.link.status().map_err(Stop::Link)?;
    }
    let after = rig.read_config().map_err(Stop::Link)?;
    if after.zoned == before.zoned {
        return Ok(());
    }
    rig.spoil();
    fail(format!("{:?} whatever is written there", before.zoned), format!("{:?}", after.zoned))
}

/// 140
pub(crate) fn readable_before_features(rig: &mut Rig<'_>) -> Checked {
    rig.stop()?;
    let early = rig.read_config().map_err(Stop::Link)?;
    if early.capacity.get() == 0 {
        return fail("the capacity can be read before FEATURES_OK", "0");
    }
    rig.ready()?;
    let late = rig.read_config().map_err(Stop::Link)?;
    let plain = |config: Config| Config { writeback: 0, ..config };
    if plain(early) == plain(late) {
        return Ok(());
    }
    let (early, late) = (plain(early), plain(late));
    let differs = early.as_bytes().iter().zip(late.as_bytes()).position(|(a, b)| a != b);
    let got = format!("byte {} differs", differs.unwrap_or(0));
    fail("the same configuration before FEATURES_OK and after", got)
}

/// Model NONE or conventional zones only: nothing sequential to try.
pub(crate) fn conventional_only(zones: &[crate::disk::Zone]) -> bool {
    zones.iter().all(|zone| zone.kind == CONVENTIONAL)
}
