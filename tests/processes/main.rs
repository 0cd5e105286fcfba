//! Facts about processes: forked children, two processes on one folder, two stores in one process, and in which order
//! what belongs to a store may be dropped.

#[cfg(unix)]
mod fork;
#[cfg(unix)]
mod forked;
mod order;
mod place;
mod two;
