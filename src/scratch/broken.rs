//! Lanes that break and heal: files that cannot be created, and folders that go and come back.
#![forbid(unsafe_code)]

use std::io;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::block::BlockHash;
use crate::error::{OpenError, ReadError, WriteError};
use crate::scratch::small::{HANGS, REALM, block, eventually, key_in, memory, open_told, send_to, shows, until};
use crate::scratch::{HealthState, Scratch};
use crate::storage::faulty::{Call, Fault, Faults, FaultySource};
use crate::storage::{FileSource, MemoryFileSource};
use crate::sync::Arc;
use crate::wheel::Event;

/// The folder of lane 1 takes no new file: writers of its keys waited 30 s each.
#[test]
fn a_lane_that_gets_no_file_fails_its_writes_at_once_reads_on_and_heals() {
    let (scratch, events, faults) = open_told(memory(2, 4, 64 << 10), |builder| builder);
    let kept = key_in(&scratch, 1, 5000);
    scratch.put_named(REALM, kept, b"kept").unwrap();
    assert_eq!(scratch.health().state, HealthState::Healthy);
    let calls = [Call::Create, Call::Store, Call::Sync, Call::Delete];
    faults.set(Fault::at(1).sticky().only(&calls[..1]).in_folder(1));
    let error = (0..200).find_map(|seed| scratch.put_named(REALM, key_in(&scratch, 1, seed), &[1; 9000]).err());
    let Some(WriteError::Io(error)) = error else { panic!("{error:?}") };
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    let seen = until(&events, |event| matches!(event, Event::LaneBroken { .. }));
    assert!(seen.iter().any(|event| matches!(event, Event::FileBroken { lane: 1, .. })), "{seen:#?}");
    assert!(matches!(seen.last(), Some(Event::LaneBroken { lane: 1, error: other, .. }) if *other == error));
    assert_eq!(scratch.stats().timeouts, 0, "nobody waits for a lane that has failed three times");
    assert_eq!((scratch.stats().write_errors, scratch.stats().refused), (1, 0));

    let health = scratch.health();
    assert_eq!(health.state, HealthState::Degraded);
    let (_, lane, broken) = health.broken().next().unwrap();
    assert!(lane.lane == 1 && broken.attempts >= 3 && broken.error == error, "{health}");
    assert!(shows(&health, "The store is degraded: 1 of 2 lanes broken.\nLane 1 is broken"));
    // What is there is read, what is not is missing, and the other lane takes everything.
    assert!(scratch.get(REALM, kept).as_deref() == Ok(&b"kept"[..]));
    assert!(scratch.get(REALM, key_in(&scratch, 1, 999)).unwrap_err().is_missing());
    for seed in 0..100 {
        scratch.put_named(REALM, key_in(&scratch, 0, seed), &[1; 9000]).unwrap();
    }

    faults.clear();
    until(&events, |event| matches!(event, Event::LaneHealed { lane: 1, .. }));
    assert_eq!(scratch.health().state, HealthState::Healthy);
    for seed in 0..100 {
        scratch.put_named(REALM, key_in(&scratch, 1, seed), &[1; 9000]).unwrap();
    }
    assert!(scratch.stats().file_failures >= 3);
}

/// The keeper of a lane whose oldest file could not die looked at it a thousand times a second until the next try, which may
/// be five seconds away, for as long as the disk refused.
#[test]
fn a_keeper_rests_until_a_file_that_could_not_die_is_tried_again() {
    let (scratch, _, faults) = open_told(memory(1, 3, 64 << 10), |builder| builder);
    for number in 0..4 {
        scratch.put(REALM, &block(number, 28_000)).unwrap();
    }
    scratch.flush().unwrap();
    eventually("a spare", || scratch.stats().files == 3 && scratch.wheel().keepers_rest());
    faults.set(Fault::at(1).sticky().only(&[Call::Store, Call::Delete]));
    scratch.wheel().recycle_oldest();
    assert!(scratch.stats().file_failures > 0);
    eventually("the keeper rests", || scratch.wheel().keepers_rest());
    faults.clear();
    eventually("it is tried again", || scratch.stats().turns == 1);
}

/// One failure is no broken lane: what waits goes on once the keeper has tried again.
#[test]
fn a_creation_that_fails_once_costs_its_writers_a_moment() {
    let (scratch, events, faults) = open_told(memory(1, 4, 64 << 10), |builder| builder);
    faults.set(Fault::at(1).only(&[Call::Create]));
    for number in 0..40 {
        scratch.put(REALM, &block(number, 4096)).unwrap();
    }
    assert_eq!((scratch.stats().file_failures, scratch.health().state), (1, HealthState::Healthy));
    scratch.close(HANGS);
    let events: Vec<_> = events.into_iter().collect();
    assert!(events.iter().any(|event| matches!(event, Event::FileBroken { .. })));
    assert!(!events.iter().any(|event| matches!(event, Event::LaneBroken { .. } | Event::LaneHealed { .. })));
}

/// A store of two folders, which forgets nothing of them when it is closed.
fn open_over(files: &MemoryFileSource, faults: &Arc<Faults>) -> Result<(Scratch, Receiver<Event>), OpenError> {
    let (told, events) = channel();
    let source = FaultySource::with(files.clone(), Arc::clone(faults));
    let scratch = Scratch::builder(source).gather(0, Duration::ZERO).on_event(send_to(told)).open()?;
    Ok((scratch, events))
}

/// The disk of one folder does not answer, whatever is asked of it.
fn dead_folder() -> Fault {
    Fault::at(1).sticky().kind(io::ErrorKind::Other).in_folder(1)
}

#[test]
#[cfg_attr(miri, ignore = "too many calls to interpret")]
fn a_folder_that_is_not_there_at_open_fails_its_keys_and_is_taken_back() {
    for calls in [&[Call::Scan][..], &[Call::Load], &Call::ALL] {
        let files = memory(2, 4, 64 << 10);
        let faults = Arc::<Faults>::default();
        let (scratch, _events) = open_over(&files, &faults).unwrap();
        let [here, gone] = [0, 1].map(|lane| (0..5).map(|seed| key_in(&scratch, lane, seed)).collect::<Vec<_>>());
        for (number, key) in here.iter().chain(&gone).enumerate() {
            scratch.put_named(REALM, *key, &block(number as u64, 3000)).unwrap();
        }
        let removed = gone[4];
        scratch.remove(REALM, removed).unwrap();
        drop(scratch);

        faults.set(dead_folder().only(calls));
        let (scratch, events) = open_over(&files, &faults).unwrap();
        scratch.wait_recovered(HANGS).unwrap();
        assert!(matches!(events.recv_timeout(HANGS), Ok(Event::LaneBroken { lane: 1, .. })));
        // A miss would be a lie: each verb says why it does not know.
        for key in &gone {
            assert!(matches!(scratch.get(REALM, *key), Err(ReadError::Io(_))), "{calls:?}");
            assert!(matches!(scratch.read_verified(REALM, *key, |_| ()), Err(ReadError::Io(_))));
            assert!(matches!(scratch.contains(REALM, *key), Err(ReadError::Io(_))));
            assert!(matches!(scratch.info(REALM, *key), Err(ReadError::Io(_))));
            assert!(matches!(scratch.remove(REALM, *key), Err(WriteError::Io(_))));
            assert!(matches!(scratch.put_named(REALM, *key, b"new"), Err(WriteError::Io(_))));
            assert!(matches!(scratch.write_named(REALM, *key, 8, |_| ()), Err(WriteError::Io(_))));
        }
        let mut found = Vec::new();
        let keys = [&here[..], &gone].concat();
        scratch.get_many(REALM, &keys, |at, block| found.push((at, block.map(<[u8]>::len)))).unwrap();
        assert!(found.len() == 10 && found[..5].iter().all(|(_, len)| *len == Ok(3000)), "{found:?}");
        assert!(found[5..].iter().all(|(_, error)| matches!(error, Err(ReadError::Io(_)))), "{found:?}");
        // A list of what is there would be one too, without that.
        let mut visited = Vec::new();
        let listed = scratch.for_each(REALM, |block| visited.push(block.hash));
        visited.sort();
        let mut there = here.clone();
        there.sort();
        assert_eq!((visited, scratch.len()), (there, 5));
        let Err(ReadError::Io(error)) = listed else { panic!("{listed:?}") };
        assert_eq!(error, scratch.health().broken().next().unwrap().2.error);
        // What is there was searched: nobody waits for the rest.
        assert!(scratch.recovery().complete && scratch.recovery().files_total == scratch.recovery().report.files);
        // Of many blocks those of the other lane are stored.
        let many: Vec<Vec<u8>> = (100..110).map(|number| block(number, 100)).collect();
        let slices: Vec<&[u8]> = many.iter().map(Vec::as_slice).collect();
        assert!(matches!(scratch.put_many(REALM, &slices), Err(WriteError::Io(_))));
        for bytes in &many {
            let hash = BlockHash::of(bytes);
            let is_here = scratch.wheel().lane_of_key(REALM, hash) == 0;
            assert_eq!(scratch.contains(REALM, hash), if is_here { Ok(true) } else { scratch.contains(REALM, hash) });
        }
        for (number, key) in here.iter().enumerate() {
            assert_eq!(scratch.get(REALM, *key).unwrap()[..], block(number as u64, 3000));
            scratch.put_named(REALM, *key, &block(number as u64 + 50, 3000)).unwrap();
        }
        scratch.flush().unwrap();
        let health = scratch.health();
        assert_eq!(health.state, HealthState::Degraded);
        let lane = &health.folders[1].lanes[0];
        assert!(!lane.readable && lane.broken.is_some(), "{health}");
        assert!(shows(&health, "it cannot be read"));

        // Back, and not searched yet: what the search reads waits.
        faults.hold_payloads(true);
        faults.clear();
        eventually("the folder is searched", || !scratch.recovery().complete);
        assert!(matches!(scratch.wait_recovered(Duration::ZERO), Err(ReadError::Busy { .. })));
        assert!(matches!(scratch.for_each(REALM, |_| ()), Err(ReadError::Io(_))));
        assert!(matches!(scratch.contains(REALM, key_in(&scratch, 1, 77)), Err(ReadError::Io(_))));
        faults.hold_payloads(false);
        eventually("the folder is back", || scratch.health().state == HealthState::Healthy);
        until(&events, |event| matches!(event, Event::LaneHealed { lane: 1, .. }));
        scratch.wait_recovered(HANGS).unwrap();
        for (number, key) in gone.iter().enumerate().take(4) {
            assert_eq!(scratch.get(REALM, *key).unwrap()[..], block(number as u64 + 5, 3000));
        }
        assert!(scratch.get(REALM, removed).unwrap_err().is_missing());
        assert_eq!(scratch.recovery().files_total, scratch.recovery().report.files);
        let mut visited = 0;
        scratch.for_each(REALM, |_| visited += 1).unwrap();
        assert!(visited >= 9 && visited == scratch.len(), "{visited}");
    }
}

/// While the folder was away the other lanes have taken generations beyond those of its files: what is written to it
/// afterwards must still be younger than what it holds, also for the next run.
#[test]
#[cfg_attr(miri, ignore = "too many blocks to interpret")]
fn a_folder_that_comes_back_keeps_the_order_of_its_versions() {
    let files = memory(2, 3, 64 << 10);
    let faults = Arc::<Faults>::default();
    let (scratch, _) = open_over(&files, &faults).unwrap();
    let key = key_in(&scratch, 1, 1);
    let fill = |scratch: &Scratch, lane, from, blocks| {
        for seed in from..from + blocks {
            scratch.put_named(REALM, key_in(scratch, lane, seed), &[1; 9000]).unwrap();
        }
    };
    // The folder that goes has the higher generations first, and the lower ones later.
    fill(&scratch, 1, 100, 100);
    scratch.put_named(REALM, key, b"first").unwrap();
    drop(scratch);
    faults.set(dead_folder());
    let (scratch, _) = open_over(&files, &faults).unwrap();
    fill(&scratch, 0, 300, 150);
    assert!(scratch.stats().turns > 10);
    faults.clear();
    eventually("the folder is back", || scratch.health().state == HealthState::Healthy);
    assert_eq!(scratch.get(REALM, key).as_deref(), Ok(&b"first"[..]));
    scratch.put_named(REALM, key, b"second").unwrap();
    // Its files turn, and the newest version goes on to be the one.
    for lap in 0..8 {
        fill(&scratch, 1, 500 + 100 * lap, 8);
        scratch.put_named(REALM, key, &block(lap, 100)).unwrap();
    }
    assert_eq!(scratch.get(REALM, key).unwrap()[..], block(7, 100));
    drop(scratch);
    let (scratch, _) = open_over(&files, &faults).unwrap();
    scratch.wait_recovered(HANGS).unwrap();
    assert_eq!(scratch.get(REALM, key).unwrap()[..], block(7, 100));
}

#[test]
fn a_store_that_needs_all_of_its_folders_is_refused_without_one() {
    let files = memory(2, 3, 64 << 10);
    let faults = Arc::<Faults>::default();
    let is_io = |result: Result<_, OpenError>| match result {
        Err(OpenError::Io(error)) => assert_eq!(error.kind(), io::ErrorKind::Other),
        other => panic!("{:?}", other.map(|(scratch, _): (Scratch, Receiver<Event>)| scratch)),
    };
    // A new one: nobody knows its lanes.
    faults.set(dead_folder());
    is_io(open_over(&files, &faults));
    assert_eq!(files.clone().scan().unwrap().len(), 0);
    faults.clear();
    let (scratch, _) = open_over(&files, &faults).unwrap();
    let key = key_in(&scratch, 1, 1);
    scratch.put_named(REALM, key, b"kept").unwrap();
    drop(scratch);
    // All gone; and one gone whose blocks would be back after a reset.
    faults.set(Fault::at(1).sticky().kind(io::ErrorKind::Other));
    is_io(open_over(&files, &faults));
    faults.set(dead_folder());
    for temporary in [false, true] {
        let builder = Scratch::builder(FaultySource::with(files.clone(), Arc::clone(&faults)));
        let builder = if temporary { builder.temporary() } else { builder.reset() };
        assert!(matches!(builder.open(), Err(OpenError::Io(_))));
    }
    faults.clear();
    let (scratch, _) = open_over(&files, &faults).unwrap();
    scratch.wait_recovered(HANGS).unwrap();
    assert_eq!(scratch.get(REALM, key).as_deref(), Ok(&b"kept"[..]), "nothing was touched");
}

#[test]
fn a_store_whose_folder_never_comes_back_closes_like_any_other() {
    let files = memory(2, 3, 64 << 10);
    let faults = Arc::<Faults>::default();
    drop(open_over(&files, &faults).unwrap());
    faults.set(dead_folder());
    let (scratch, events) = open_over(&files, &faults).unwrap();
    let attempts = || scratch.health().broken().next().map_or(0, |(_, _, broken)| broken.attempts);
    eventually("it is tried again", || attempts() >= 3);
    assert!(scratch.stats().file_failures >= 2);
    let began = Instant::now();
    scratch.close(HANGS);
    assert!(began.elapsed() < HANGS / 2);
    drop(scratch);
    let told = events.into_iter().filter(|event| matches!(event, Event::LaneBroken { .. })).count();
    assert_eq!(told, 1);
}

/// Generations that a lane has taken while the folder of another was away were taken by that one, too, and the next
/// opening refused them: no two files had the same, until then.
#[test]
#[cfg_attr(miri, ignore = "too many blocks to interpret")]
fn lanes_may_share_a_generation_once_a_folder_was_away() {
    let files = memory(2, 3, 64 << 10);
    let faults = Arc::<Faults>::default();
    let (scratch, _) = open_over(&files, &faults).unwrap();
    let put = |scratch: &Scratch, lane, seed| {
        let key = key_in(scratch, lane, seed);
        scratch.put_named(REALM, key, &[1; 9000]).unwrap();
        scratch.info(REALM, key).unwrap().generation
    };
    let newest = (0..100).map(|seed| put(&scratch, 1, seed)).max().unwrap();
    drop(scratch);
    faults.set(dead_folder());
    let (scratch, _) = open_over(&files, &faults).unwrap();
    assert!((200..600).any(|seed| put(&scratch, 0, seed) >= newest));
    faults.clear();
    eventually("the folder is back", || scratch.health().state == HealthState::Healthy);
    drop(scratch);
    let (scratch, _) = open_over(&files, &faults).unwrap();
    scratch.wait_recovered(HANGS).unwrap();
    put(&scratch, 1, 99);
}
