//! One pod on this machine, from its binding to its end.
//!
//! `observed` is what was seen, `plan` and `status` decide (pure), `actor` is the shell around them, `steps` does.
//! Nothing here survives the daemon: a new one builds `Observed` again from the runtime.

pub(crate) mod actor;
pub(crate) mod backoff;
pub(crate) mod observed;
pub(crate) mod order;
mod patch;
pub(crate) mod plan;
mod probe;
mod start;
pub(crate) mod status;
mod steps;
mod stop;

#[cfg(test)]
mod tests;
