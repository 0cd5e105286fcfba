//! Facts about processes: forked children, two processes on one folder, two stores in one process, in which order what
//! belongs to a store may be dropped, and who may read its files.

#[cfg(unix)]
mod fork;
#[cfg(unix)]
mod forked;
#[cfg(unix)]
mod limits;
#[cfg(unix)]
mod modes;
mod order;
mod place;
mod two;
#[path = "../common/waiting.rs"]
mod waiting;
