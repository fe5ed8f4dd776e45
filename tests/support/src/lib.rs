//! What several kinds of tests share: what clients were told, and whether one order of events can explain it.

pub mod history;
pub mod linear;
