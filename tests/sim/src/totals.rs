//! What happened in a run, in numbers. A kind of fault that never happened has proven nothing.

use std::fmt;

macro_rules! totals {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counted over one seed, or over many.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Totals { $($(#[$doc])* pub $name: u64),* }

        impl Totals {
            pub fn add(&mut self, other: &Totals) {
                $(self.$name += other.$name;)*
            }

            /// Those that never happened.
            pub fn zeros(&self) -> Vec<&'static str> {
                let all = [$((stringify!($name), self.$name)),*];
                all.into_iter().filter(|(_, count)| *count == 0).map(|(name, _)| name).collect()
            }

            /// As printed by [`fmt::Display`].
            pub fn parse(text: &str) -> Self {
                let mut totals = Totals::default();
                for word in text.split_whitespace() {
                    let Some((name, count)) = word.split_once('=') else { continue };
                    let count = count.parse().unwrap_or(0);
                    match name {
                        $(stringify!($name) => totals.$name = count,)*
                        _ => {}
                    }
                }
                totals
            }
        }

        impl fmt::Display for Totals {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let all = [$((stringify!($name), self.$name)),*];
                let words: Vec<String> = all.iter().map(|(name, count)| format!("{name}={count}")).collect();
                f.write_str(&words.join(" "))
            }
        }
    };
}

totals! {
    seconds,
    faults,
    crashes,
    elections,
    log_truncations,
    snapshot_installs,
    membership_changes,
    leader_transfers,
    level_raises,
    spliced_updates,
    dropped_flushes,
    messages,
    lost,
    duplicated,
    refused_connections,
    writes,
    unknown_outcomes,
    consistent_reads,
    watch_events,
    watch_resumptions,
    relists,
    loop_writes,
    loop_writes_deposed,
    checks,
}
