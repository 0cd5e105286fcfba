//! After an opening: every key is compared with what it must be, and what a kill has left open is settled.
#![forbid(unsafe_code)]

use scratchspace::{ReadError, Scratch};

use crate::laps::Place;
use crate::oracle::{Count, Key, Kind, Oracle, Read, Verdict};
use crate::site::{REALM, Site, WRITERS};

const PAGE: u64 = 4096;

/// Places seen by one check: files die strictly from the oldest of their lane.
#[derive(Debug, Default)]
struct Order {
    present: Vec<Place>,
    turned: Vec<Place>,
}

impl Order {
    /// No file with a block may be alive that is older than one that has turned.
    fn check(&self, site: &Site<'_>) -> Result<(), String> {
        for turned in &self.turned {
            let older = |place: &&Place| place.lane == turned.lane && place.generation < turned.generation;
            if let Some(older) = self.present.iter().filter(older).min_by_key(|place| place.generation)
                && site.laps.is_alive(*older).map_err(|error| format!("reading a header: {error}"))?
            {
                return Err(format!("{turned:?} died before the older {older:?}"));
            }
        }
        Ok(())
    }
}

/// Reads every key of a store whose recovery is complete, before anybody writes.
///
/// May be killed anywhere, and done again.
///
/// # Errors
///
/// The first key that is not what was promised.
pub(crate) fn check_all(site: &Site<'_>, scratch: &Scratch) -> Result<(), String> {
    let oracle = site.oracle;
    let report = scratch.recovery().report;
    let skipped = report.skipped;
    if skipped.misplaced + skipped.unknown + skipped.unreadable + skipped.no_room > 0 {
        return Err(format!("no crash of the process makes such entries: {skipped}"));
    }
    if report.files_damaged > 0 {
        return Err(format!("no crash of the process damages a file: {report:?}"));
    }
    let forgets = oracle.count(Count::MayForget) != 0;
    let (mut lost, mut order) = (0, Order::default());
    for key in 0..oracle.keys() {
        lost += check(site, scratch, key, forgets, &mut order)
            .map_err(|what| format!("key {key} after an opening: {what}; {}", oracle.key(key)))?;
    }
    // A lane that a kill has left without any block goes on with the generations that its files have: a lap that is older
    // by its number may then be filled after a younger one has died. Only what all lies before this opening is in order.
    if oracle.count(Count::Unsettled) == 0 {
        order.check(site)?;
    }
    let limit = oracle.count(Count::GatherLimit);
    if oracle.count(Count::Unsettled) == 0 && lost > limit {
        return Err(format!("{lost} bytes of blocks were lost that had been put, and gather buffers hold {limit}"));
    }
    oracle.add(Count::Checked, oracle.keys());
    oracle.add(Count::Checks, 1);
    Ok(())
}

/// Gives how many bytes only a gather buffer had held.
fn check(site: &Site<'_>, scratch: &Scratch, number: u64, forgets: bool, order: &mut Order) -> Result<u64, String> {
    let key = site.oracle.key(number);
    let hash = site.oracle.blocks.hash(number, Oracle::kind(number, WRITERS));
    let read = match scratch.read(REALM, hash, |bytes| site.read_as(number, bytes)) {
        Ok(read) => read.map_err(|what| format!("wrong bytes: {what}"))?,
        Err(ReadError::Missing { .. }) => Read::Missing,
        Err(error) => return Err(error.to_string()),
    };
    let verdict = key.judge(read, key.floor(), key.place())?;
    site.settle_miss(verdict, forgets)?;
    if let Verdict::IfTurned(Some(place)) = verdict {
        order.turned.push(place);
    }
    let place = match scratch.info(REALM, hash) {
        Ok(info) => site.laps.place(info.file, info.generation).map_err(|error| error.to_string())?,
        Err(ReadError::Missing { .. }) => None,
        Err(error) => return Err(error.to_string()),
    };
    order.present.extend(place);
    let lost = match read {
        Read::Version(version) => {
            let lost = lost_after(&key, version);
            site.oracle.add(Count::LostGathered, lost.0);
            if version > key.floor() {
                key.raise(version, place);
            }
            // Of these nothing was found, and what was found is the newest: they never come back.
            for later in version + 1..=key.begun() {
                key.void(later);
            }
            lost.1
        }
        Read::Content => {
            // Which version it is cannot be told: it is there, from now on.
            let seen = key.begin(Kind::Put, site.oracle.blocks.len(number, 0));
            key.raise(seen, place);
            0
        }
        Read::Missing => {
            let later = key.floor() + 1..=key.begun();
            let open = later.into_iter().any(|version| key.version(version).kind.is_write());
            if matches!(verdict, Verdict::IfTurned(Some(_))) && !open {
                let gone = key.begin(Kind::Gone, 0);
                key.raise(gone, None);
            } else if matches!(verdict, Verdict::IfTurned(_)) {
                // A later version may lie in a file that is just making room, and be back after the next kill.
                let removed = key.begin(Kind::Remove, 0);
                scratch.remove(REALM, hash).map_err(|error| format!("removing what is missing: {error}"))?;
                if site.options.gather == 0 {
                    key.raise(removed, None);
                } else {
                    key.gathered(removed);
                }
            }
            0
        }
    };
    key.settle();
    Ok(lost)
}

/// How many blocks, and bytes of gather buffers, came after `version` and are lost.
fn lost_after(key: &Key<'_>, version: u64) -> (u64, u64) {
    let lost = (version.max(key.settled()) + 1..=key.begun()).map(|later| key.version(later));
    let lost = lost.filter(|version| version.gathered && version.kind == Kind::Put);
    lost.fold((0, 0), |(blocks, bytes), version| (blocks + 1, bytes + u64::from(version.len).next_multiple_of(PAGE)))
}
