//! The cluster's servers as controllers see them: who is on the roster, and since when this replica has not heard of them.

use caravel_controllers::Server;
use caravel_peers::roster;
use caravel_store::Store;
use std::collections::BTreeMap;

/// Servers that were admitted and not removed. What cannot be read is left out, and said.
pub(crate) fn servers(store: &Store) -> Vec<Server> {
    let on_roster = roster::living(&store.snapshot()).unwrap_or_else(|error| {
        tracing::warn!(%error, "read the roster of servers");
        Vec::new()
    });
    let silent: BTreeMap<u64, _> = store
        .members()
        .list()
        .into_iter()
        .map(|replica| (replica.id, replica.silent))
        .collect();
    on_roster
        .into_iter()
        .filter_map(|member| {
            let address = member.api_url.strip_prefix("https://")?.parse().ok()?;
            let silent = silent.get(&member.id).copied().flatten();
            Some(Server { address, silent })
        })
        .collect()
}
