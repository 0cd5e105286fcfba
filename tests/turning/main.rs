//! How the files of a store turn: what makes room, what stays, who waits, and what is counted.
#![forbid(unsafe_code)]

mod counted;
mod pins;
mod refuse;
mod replaced;
mod room;
mod store;
mod waits;
