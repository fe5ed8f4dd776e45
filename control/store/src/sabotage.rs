//! Ways to break this store on purpose, so that every check can be shown to notice: one feature, `sabotage`, never on in a
//! release, and one environment variable that names what to break. Without the feature each hook is `false` at
//! compile time, and neither the variable's name nor any of this is in the program.

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// What is called durable was not flushed.
    SkipFlush,
    /// A vote is answered before it is on the disk.
    EarlyVote,
    /// Whoever believes to lead serves consistent reads without asking anybody.
    StaleRead,
    /// One change in fifty is kept from those who watch.
    DropEvent,
    /// A loop's write whose leader was deposed goes to the next one.
    ForwardLoop,
}

/// Is this what `CARAVEL_SABOTAGE` names?
#[cfg(feature = "sabotage")]
pub(crate) fn on(what: Sabotage) -> bool {
    use std::sync::OnceLock;
    static CHOSEN: OnceLock<Option<Sabotage>> = OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| {
        let name = std::env::var("CARAVEL_SABOTAGE").ok()?;
        let chosen = match name.as_str() {
            "skip-flush" => Sabotage::SkipFlush,
            "early-vote" => Sabotage::EarlyVote,
            "stale-read" => Sabotage::StaleRead,
            "drop-event" => Sabotage::DropEvent,
            "forward-loop" => Sabotage::ForwardLoop,
            _ => return None,
        };
        tracing::error!(?chosen, "this program is broken on purpose");
        Some(chosen)
    });
    *chosen == Some(what)
}

/// Never.
#[cfg(not(feature = "sabotage"))]
pub(crate) const fn on(_: Sabotage) -> bool {
    false
}
