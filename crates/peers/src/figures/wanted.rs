//! The figures themselves.
#![forbid(unsafe_code)]

/// What a row is held against.
#[derive(Clone, Copy, Debug)]
pub(super) enum Bound {
    /// At least this part of the rate of another row.
    Rate(f64, &'static str),
    /// At most so many times what another row takes, for an element each.
    Times(f64, &'static str),
    /// At most so many nanoseconds more than another row.
    More(f64, &'static str),
    /// More than another row by at most so many times what a third one takes.
    MoreTimes(f64, &'static str, &'static str),
    /// Two threads gain at least this part of what they gain a limit: the rows of one thread, of the limit, and of two threads
    /// of that.
    Scaling(f64, &'static str, [&'static str; 2]),
    /// At most so many nanoseconds for an element.
    Nanos(f64),
    /// At most so many nanoseconds for everything.
    Whole(f64),
}

/// Something to reach.
#[derive(Clone, Copy, Debug)]
pub(super) struct Figure {
    pub(super) what: &'static str,
    /// Criterion's name of it. With `*` at its end: the slowest of those that begin so.
    pub(super) row: &'static str,
    pub(super) bound: Bound,
}

use Bound::{More, MoreTimes, Nanos, Rate, Scaling, Times, Whole};

const fn figure(what: &'static str, row: &'static str, bound: Bound) -> Figure {
    Figure { what, row, bound }
}

const DRAM: &str = "index/limit: one read of memory that no cache has";

/// In the order of the README's promises: writing, reading, the index, restart.
pub(super) const FIGURES: [Figure; 54] = [
    figure(
        "`put` 1 MiB, new files, burst",
        "passes/1 MiB, new files/put, burst",
        Rate(0.95, "passes/1 MiB, new files/limit, burst"),
    ),
    figure(
        "`put` 1 MiB, new files, synced",
        "passes/1 MiB, new files/put, synced",
        Rate(0.95, "passes/1 MiB, new files/limit, synced"),
    ),
    figure(
        "`put` 1 MiB, files used again, burst",
        "passes/1 MiB, files used again/put, burst",
        Rate(0.95, "passes/1 MiB, files used again/limit, burst"),
    ),
    figure(
        "`put` 1 MiB, files used again, synced",
        "passes/1 MiB, files used again/put, synced",
        Rate(0.95, "passes/1 MiB, files used again/limit, synced"),
    ),
    figure(
        "`put` 16 MiB, files used again, burst",
        "passes/16 MiB, files used again/put, burst",
        Rate(0.95, "passes/16 MiB, files used again/limit, burst"),
    ),
    figure(
        "`put` 16 MiB, new files, burst",
        "passes/16 MiB, new files/put, burst",
        Rate(0.95, "passes/16 MiB, new files/limit, burst"),
    ),
    figure(
        "`put` 4 KiB, gathered, burst",
        "passes/4 KiB, files used again/put, burst",
        Rate(0.6, "passes/4 KiB, files used again/limit, burst"),
    ),
    figure(
        "`put` 4 KiB, gathered, new files, burst",
        "passes/4 KiB, new files/put, burst",
        Rate(0.6, "passes/4 KiB, new files/limit, burst"),
    ),
    figure(
        "`put` 4 KiB, gathered, by two threads into one lane beside a reader, burst",
        "passes/4 KiB, files used again, in company/put, burst",
        Rate(0.6, "passes/4 KiB, files used again, in company/limit, burst"),
    ),
    figure(
        "`put` 64 KiB, files used again, burst, beside hash, copy and a `pwrite` for each MiB",
        "passes/64 KiB, files used again/put, burst",
        Rate(0.95, "passes/64 KiB, files used again/limit, burst"),
    ),
    figure(
        "`put` 64 KiB, files used again, burst, beside a bare `pwrite`",
        "passes/64 KiB, files used again/put, burst",
        Rate(0.95, "passes/64 KiB, files used again/limit: a pwrite of each, not hashed, burst"),
    ),
    figure(
        "two writers, two lanes, 64 KiB",
        "passes/64 KiB, files used again, two threads/put, burst",
        Scaling(
            0.95,
            "passes/64 KiB, files used again/put, burst",
            [
                "passes/64 KiB, files used again/limit, burst",
                "passes/64 KiB, files used again, two threads/limit, burst",
            ],
        ),
    ),
    figure(
        "two writers, two lanes, 1 MiB",
        "passes/1 MiB, files used again, two threads/put, burst",
        Scaling(
            0.95,
            "passes/1 MiB, files used again/put, burst",
            ["passes/1 MiB, files used again/limit, burst", "passes/1 MiB, files used again, two threads/limit, burst"],
        ),
    ),
    figure(
        "`put` 4 KiB, synced",
        "passes/4 KiB, files used again/put, synced",
        Rate(0.9, "passes/1 MiB, files used again/put, synced"),
    ),
    figure(
        "`put` 4 KiB, `gather(0, 0)`",
        "write/4 KiB/put, not gathered",
        Rate(0.9, "write/4 KiB/limit: a pwrite of the block and one of its entry"),
    ),
    figure(
        "`put_many` 4 KiB, burst",
        "passes/4 KiB, files used again/put_many of 64, burst",
        Rate(1.2, "passes/4 KiB, files used again/put, from 64 buffers, burst"),
    ),
    figure(
        "`write` 1 MiB with its closure, new files, burst",
        "passes/1 MiB, new files/write_named, closures run, burst",
        Rate(0.85, "passes/1 MiB, new files/put, burst"),
    ),
    figure(
        "`write` 1 MiB with its closure, new files, synced",
        "passes/1 MiB, new files/write_named, closures run, synced",
        Rate(0.85, "passes/1 MiB, new files/put, synced"),
    ),
    figure(
        "`write` 1 MiB with its closure, files used again, burst",
        "passes/1 MiB, files used again/write_named, closures run, burst",
        Rate(0.6, "passes/1 MiB, files used again/put, burst"),
    ),
    figure(
        "`write` 1 MiB with its closure, files used again, synced",
        "passes/1 MiB, files used again/write_named, closures run, synced",
        Rate(0.85, "passes/1 MiB, files used again/put, synced"),
    ),
    figure("`write` 1 MiB, the call", "write/1 MiB/write_named, the call alone", Whole(2e3)),
    figure("hot read 4 KiB, of 2^18 blocks", "read/4 KiB/read", More(150.0, "read/4 KiB/limit: a bare mapping")),
    figure(
        "hot read 4 KiB, one of 2^18 among 2^24 blocks",
        "index/2^24 blocks/read of 4 KiB, as one in 64 has",
        MoreTimes(2.2, "index/2^24 blocks/limit: 4 KiB of a bare mapping", DRAM),
    ),
    figure("hot read 64 KiB", "read/64 KiB/read", Rate(0.98, "read/64 KiB/limit: a bare mapping")),
    figure("hot read 1 MiB", "read/1 MiB/read", Rate(0.98, "read/1 MiB/limit: a bare mapping")),
    figure(
        "two readers, 4 KiB",
        "read/4 KiB/read, two threads",
        Scaling(
            0.95,
            "read/4 KiB/read",
            ["read/4 KiB/limit: a bare mapping", "read/4 KiB/limit: a bare mapping, two threads"],
        ),
    ),
    figure(
        "two readers, 64 KiB",
        "read/64 KiB/read, two threads",
        Scaling(
            0.95,
            "read/64 KiB/read",
            ["read/64 KiB/limit: a bare mapping", "read/64 KiB/limit: a bare mapping, two threads"],
        ),
    ),
    figure(
        "two readers, 1 MiB",
        "read/1 MiB/read, two threads",
        Scaling(
            0.95,
            "read/1 MiB/read",
            ["read/1 MiB/limit: a bare mapping", "read/1 MiB/limit: a bare mapping, two threads"],
        ),
    ),
    figure("cold read 64 KiB", "cold/64 KiB/read", Rate(0.95, "cold/64 KiB/limit: exact requests on a bare mapping")),
    figure(
        "cold read 64 KiB, compared with its hash",
        "cold/64 KiB/read, of another run and not compared yet",
        Rate(0.95, "cold/64 KiB/limit: exact requests on a bare mapping"),
    ),
    figure("cold read 1 MiB", "cold/1 MiB/read", Rate(0.95, "cold/1 MiB/limit: exact requests on a bare mapping")),
    figure(
        "cold read 1 MiB, compared with its hash",
        "cold/1 MiB/read, of another run and not compared yet",
        Rate(0.95, "cold/1 MiB/limit: exact requests on a bare mapping"),
    ),
    figure(
        "all of a cold set that fits, 4 KiB, beside read-around",
        "cold/all of a set that fits, 4 KiB/read/Auto",
        Rate(1.0, "cold/all of a set that fits, 4 KiB/limit: a bare mapping"),
    ),
    figure(
        "all of a cold set that fits, 4 KiB, beside exact requests",
        "cold/all of a set that fits, 4 KiB/read/Auto",
        Rate(1.0, "cold/all of a set that fits, 4 KiB/limit: exact requests on a bare mapping"),
    ),
    figure(
        "all of a cold set that fits, 64 KiB, beside read-around",
        "cold/all of a set that fits, 64 KiB/read/Auto",
        Rate(1.0, "cold/all of a set that fits, 64 KiB/limit: a bare mapping"),
    ),
    figure(
        "all of a cold set that fits, 64 KiB, beside exact requests",
        "cold/all of a set that fits, 64 KiB/read/Auto",
        Rate(1.0, "cold/all of a set that fits, 64 KiB/limit: exact requests on a bare mapping"),
    ),
    figure(
        "all of a cold set that fits, 4 KiB, compared with its hashes, beside read-around",
        "cold/all of a set that fits, 4 KiB/read/Auto, not compared yet",
        Rate(1.0, "cold/all of a set that fits, 4 KiB/limit: a bare mapping"),
    ),
    figure(
        "all of a cold set that fits, 64 KiB, compared with its hashes, beside read-around",
        "cold/all of a set that fits, 64 KiB/read/Auto, not compared yet",
        Rate(1.0, "cold/all of a set that fits, 64 KiB/limit: a bare mapping"),
    ),
    figure("asking for one of 2^18 blocks", "index/2^18 blocks/hit", Times(1.2, DRAM)),
    figure("asking for one of 2^24 blocks", "index/2^24 blocks/hit", Times(1.2, DRAM)),
    figure("asking for none of 2^24 blocks", "index/2^24 blocks/miss", Times(1.2, DRAM)),
    figure(
        "the index alone, 2^24 blocks, a hit",
        "index/alone, 2^24 blocks/hit, one after the other",
        Times(1.2, DRAM),
    ),
    figure("the index alone, 2^24 blocks, in batches", "index/alone, 2^24 blocks/hits, in batches", Nanos(50.0)),
    figure("the index alone, insert, slowest decile", "index/alone, 2^24 blocks/insert/decile *", Nanos(180.0)),
    figure(
        "the index alone, insert in batches, slowest decile",
        "index/alone, 2^24 blocks/insert, in batches/decile *",
        Nanos(90.0),
    ),
    figure("`get_many`, 2^22 empty blocks, each", "index/2^22 blocks/get_many of 256", Nanos(50.0)),
    figure(
        "`get_many` beside asking one by one, 2^24 blocks",
        "index/2^24 blocks/get_many of 256",
        Rate(2.0, "index/2^24 blocks/hit"),
    ),
    figure("open 16 files, warm, until it serves", "recover/open until it serves/empty", Whole(5e6)),
    figure(
        "open 64 files, warm, until it serves",
        "recover/open until it serves/64 files",
        More(48.0 * 0.5e6, "recover/open until it serves/16 files"),
    ),
    figure("open, a million blocks, warm, until all are found", "recover/open until all is found/empty", Whole(1e9)),
    figure(
        "open, a million blocks, caches cold, until all are found",
        "recover/open until all is found, caches cold/empty",
        Whole(1e9),
    ),
    figure(
        "open a full store that turns, caches cold, until all are found",
        "recover/open a full store until all is found, caches cold/used again",
        Times(1.5, "recover/open a full store until all is found, caches cold/filled once"),
    ),
    figure(
        "`write_slice` of a column, and commit",
        "blittable/1 MiB column/write_slice and commit to memory",
        Rate(0.95, "blittable/1 MiB column/limit: copy, and put to memory"),
    ),
    figure(
        "`write_shared` of a column, and commit",
        "blittable/1 MiB column/write_shared and commit to memory",
        Rate(0.95, "blittable/1 MiB column/limit: put to memory"),
    ),
];
