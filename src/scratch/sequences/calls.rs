//! The calls and faults that a sequence is drawn from.
#![forbid(unsafe_code)]

use std::fmt;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::block::BlockHash;
use crate::storage::faulty::{Call, Errno};
use crate::wheel::{OnFull, Verify};

pub(super) const NAMES: u8 = 6;
pub(super) const CONTENTS: u8 = 8;
/// Around a page, and up to most of a file of eight.
pub(super) const LENGTHS: [usize; 8] = [8, 100, 4095, 4096, 4097, 9000, 12_288, 20_000];

/// How a closure ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ends {
    Well,
    Panics,
    /// Other bytes than promised. Whatever a closure of a named block writes is right.
    Wrongly,
}

/// How a block is read.
#[derive(Clone, Copy, Debug)]
pub(super) enum How {
    Read,
    Verified,
    With,
    Get,
    Many,
    Contains,
    Info,
}

/// A named block or one of the contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Name(u8),
    Content(u8),
}

impl Key {
    pub(super) fn hash(self) -> BlockHash {
        match self {
            Self::Name(number) => BlockHash::from_u128(u128::from(number) << 90 | 1),
            Self::Content(number) => BlockHash::of(&content(number)),
        }
    }

    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..NAMES).map(Self::Name).chain((0..CONTENTS).map(Self::Content))
    }
}

#[derive(Clone, Debug)]
pub(super) enum Op {
    Put(u8),
    PutNamed(u8, usize),
    PutMany(Vec<u8>),
    Write(u8, Ends),
    WriteNamed(u8, usize, Ends),
    Remove(Key),
    Read(Key, How),
    Walk,
    Hold(Key),
    Release(u8),
    Flush,
    Reopen,
    /// The `k`-th of these calls fails, or all from it on.
    Fault {
        k: u64,
        sticky: bool,
        errno: Errno,
        calls: Vec<Call>,
    },
    Lift,
}

/// Calls that print one a line.
#[derive(Clone)]
pub(super) struct Ops(pub(super) Vec<Op>);

impl fmt::Debug for Ops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().enumerate().try_for_each(|(at, op)| write!(f, "\n    {at}: {op:?}"))
    }
}

/// What a store is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setting {
    pub(super) folders: u16,
    pub(super) files: u16,
    pub(super) on_full: OnFull,
    pub(super) verify: Verify,
    /// The gather delay in milliseconds; `None`: nothing is gathered.
    pub(super) gather: Option<u64>,
}

pub(super) fn settings() -> impl Strategy<Value = Setting> {
    let on_full = prop_oneof![Just(OnFull::Recycle), Just(OnFull::Refuse)];
    let verify = prop_oneof![Just(Verify::FirstRead), Just(Verify::Always), Just(Verify::Never)];
    let gather = prop_oneof![Just(None), Just(Some(1)), Just(Some(10_000))];
    (1..3_u16, 3..6_u16, on_full, verify, gather).prop_map(|(folders, files, on_full, verify, gather)| Setting {
        folders,
        files,
        on_full,
        verify,
        gather,
    })
}

pub(super) fn ops() -> impl Strategy<Value = Ops> {
    let len = || 0..LENGTHS.len();
    let key = || prop_oneof![(0..NAMES).prop_map(Key::Name), (0..CONTENTS).prop_map(Key::Content)];
    let ends = || prop_oneof![6 => Just(Ends::Well), 1 => Just(Ends::Panics), 1 => Just(Ends::Wrongly)];
    let how = prop_oneof![
        4 => Just(How::Read), 1 => Just(How::Verified), 1 => Just(How::With), 2 => Just(How::Get), 1 => Just(How::Many),
        1 => Just(How::Contains), 1 => Just(How::Info),
    ];
    let errno = prop::sample::select(Errno::ALL.to_vec());
    let calls = prop_oneof![
        2 => Just(Call::ALL.to_vec()),
        5 => prop::sample::subsequence(Call::ALL.to_vec(), 1..3),
    ];
    let fault = (1..12_u64, any::<bool>(), errno, calls).prop_map(|(k, sticky, errno, calls)| Op::Fault {
        k,
        sticky,
        errno,
        calls,
    });
    let op = prop_oneof![
        12 => (0..CONTENTS).prop_map(Op::Put),
        14 => (0..NAMES, len()).prop_map(|(name, len)| Op::PutNamed(name, len)),
        4 => vec(0..CONTENTS, 0..6).prop_map(Op::PutMany),
        6 => (0..CONTENTS, ends()).prop_map(|(content, ends)| Op::Write(content, ends)),
        8 => (0..NAMES, len(), ends()).prop_map(|(name, len, ends)| Op::WriteNamed(name, len, ends)),
        8 => key().prop_map(Op::Remove),
        20 => (key(), how).prop_map(|(key, how)| Op::Read(key, how)),
        1 => Just(Op::Walk),
        3 => key().prop_map(Op::Hold),
        3 => any::<u8>().prop_map(Op::Release),
        4 => Just(Op::Flush),
        2 => Just(Op::Reopen),
        5 => fault,
        2 => Just(Op::Lift),
    ];
    vec(op, 20..200).prop_map(Ops)
}

pub(super) fn bytes(number: u64, len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len as u64).map(|at| (at.wrapping_mul(number | 1) >> 3).to_le_bytes()[0]).collect();
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes
}

pub(super) fn content(number: u8) -> Vec<u8> {
    bytes(1 << 40 | u64::from(number), LENGTHS[usize::from(number)])
}
