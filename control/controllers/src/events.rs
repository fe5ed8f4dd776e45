//! What happened, for people: Events, with upstream's aggregation of similar ones and its limit on spam.
//!
//! Follows `k8s.io/client-go/tools/record/events_cache.go`: the same event again raises a count; ten similar ones
//! in ten minutes are combined; one source may tell of one object 25 times at once and then once in 5 minutes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use caravel_api::{ObjectName, time};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// The tenth similar event and those after it are combined (`defaultAggregateMaxEvents`).
const AGGREGATE_FROM: usize = 10;
const AGGREGATE_SECONDS: i64 = 600;
const SPAM_BURST: f64 = 25.0;
const SPAM_PER_SECOND: f64 = 1.0 / 300.0;
/// Keys remembered of each sort; the oldest are forgotten.
const REMEMBERED: usize = 4096;

/// Something worth telling about an object.
#[derive(Clone, Debug, PartialEq)]
pub struct EventRecord {
    pub about: ObjectReference,
    pub warning: bool,
    pub reason: String,
    pub message: String,
    /// `deployment-controller`
    pub component: String,
    /// The node that tells, empty on a server.
    pub host: String,
}

impl EventRecord {
    pub fn normal(
        about: ObjectReference,
        component: &str,
        reason: &str,
        message: impl Into<String>,
    ) -> Self {
        EventRecord {
            about,
            warning: false,
            reason: reason.to_owned(),
            message: message.into(),
            component: component.to_owned(),
            host: String::new(),
        }
    }

    pub fn warning(
        about: ObjectReference,
        component: &str,
        reason: &str,
        message: impl Into<String>,
    ) -> Self {
        EventRecord {
            warning: true,
            ..Self::normal(about, component, reason, message)
        }
    }

    fn kind(&self) -> &'static str {
        if self.warning { "Warning" } else { "Normal" }
    }

    fn object_key(&self) -> String {
        let about = &self.about;
        let field = |text: &Option<String>| text.clone().unwrap_or_default();
        [
            &self.component,
            &self.host,
            &field(&about.kind),
            &field(&about.namespace),
            &field(&about.name),
            &field(&about.uid),
            &field(&about.api_version),
        ]
        .map(String::as_str)
        .join("\u{0}")
    }

    fn similar_key(&self) -> String {
        [
            self.object_key().as_str(),
            self.kind(),
            self.reason.as_str(),
        ]
        .join("\u{0}")
    }
}

impl fmt::Display for EventRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.kind(), self.reason, self.message)
    }
}

/// What to write for a record.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    /// A new Event.
    New(Box<Event>),
    /// The Event of this name again: set its count, message and last time (create it when it is gone).
    Again { name: ObjectName, event: Box<Event> },
    /// Dropped: too much about one object.
    Spam,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Timestamp,
}

#[derive(Debug)]
struct Seen {
    count: i32,
    name: ObjectName,
    first: Timestamp,
}

/// Remembers what was told, to tell it shorter.
#[derive(Debug, Default)]
pub struct Correlator {
    buckets: Remembered<Bucket>,
    similar: Remembered<(BTreeSet<String>, Timestamp)>,
    seen: Remembered<Seen>,
}

/// A map that forgets its oldest keys.
#[derive(Debug)]
struct Remembered<V> {
    values: BTreeMap<String, V>,
    order: VecDeque<String>,
}

impl<V> Default for Remembered<V> {
    fn default() -> Self {
        Remembered {
            values: BTreeMap::new(),
            order: VecDeque::new(),
        }
    }
}

impl<V> Remembered<V> {
    fn entry(&mut self, key: &str, new: impl FnOnce() -> V) -> &mut V {
        if !self.values.contains_key(key) {
            self.order.push_back(key.to_owned());
            if self.order.len() > REMEMBERED
                && let Some(oldest) = self.order.pop_front()
            {
                self.values.remove(&oldest);
            }
        }
        self.values.entry(key.to_owned()).or_insert_with(new)
    }
}

impl Correlator {
    /// Decides what to write. `nonce` makes the name of a new Event unique (upstream: the time in nanoseconds).
    pub fn correlate(&mut self, record: &EventRecord, now: Timestamp, nonce: u64) -> Told {
        let bucket = self.buckets.entry(&record.object_key(), || Bucket {
            tokens: SPAM_BURST,
            filled: now,
        });
        let elapsed = (now.as_second() - bucket.filled.as_second()).max(0);
        bucket.tokens = (bucket.tokens + elapsed as f64 * SPAM_PER_SECOND).min(SPAM_BURST);
        bucket.filled = now;
        if bucket.tokens < 1.0 {
            return Told::Spam;
        }
        bucket.tokens -= 1.0;

        let similar_key = record.similar_key();
        let (messages, last) = self.similar.entry(&similar_key, || (BTreeSet::new(), now));
        if now.as_second() - last.as_second() > AGGREGATE_SECONDS {
            messages.clear();
        }
        *last = now;
        messages.insert(record.message.clone());
        let combined = messages.len() >= AGGREGATE_FROM;
        if combined {
            messages.pop_last();
        }
        let (key, message) = if combined {
            (
                similar_key,
                format!("(combined from similar events): {}", record.message),
            )
        } else {
            (
                [similar_key.as_str(), record.message.as_str()].join("\u{0}"),
                record.message.clone(),
            )
        };

        let namespace = record
            .about
            .namespace
            .clone()
            .filter(|namespace| !namespace.is_empty())
            .unwrap_or_else(|| "default".to_owned());
        let fresh = || {
            ObjectName::new(
                namespace,
                format!(
                    "{}.{nonce:x}",
                    record.about.name.as_deref().unwrap_or_default()
                ),
            )
        };
        let seen = self.seen.entry(&key, || Seen {
            count: 0,
            name: fresh(),
            first: now,
        });
        seen.count += 1;
        let event = Box::new(event(record, seen, message, now));
        if seen.count == 1 {
            Told::New(event)
        } else {
            Told::Again {
                name: seen.name.clone(),
                event,
            }
        }
    }
}

fn event(record: &EventRecord, seen: &Seen, message: String, now: Timestamp) -> Event {
    let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    Event {
        metadata: ObjectMeta {
            name: Some(seen.name.name.clone()),
            namespace: Some(seen.name.namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: record.about.clone(),
        reason: some(&record.reason),
        // Upstream cuts messages at 1024 bytes.
        message: some(&message[..message.floor_char_boundary(1024)]),
        source: Some(EventSource {
            component: some(&record.component),
            host: some(&record.host),
        }),
        first_timestamp: Some(time::time(seen.first)),
        last_timestamp: Some(time::time(now)),
        count: Some(seen.count),
        type_: Some(record.kind().to_owned()),
        reporting_component: some(&record.component),
        reporting_instance: some(&record.host),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(message: &str) -> EventRecord {
        let about = ObjectReference {
            kind: Some("Pod".to_owned()),
            name: Some("p".to_owned()),
            namespace: Some("n".to_owned()),
            ..ObjectReference::default()
        };
        EventRecord::normal(about, "c", "R", message)
    }

    fn told(correlator: &mut Correlator, message: &str, second: i64) -> String {
        match correlator.correlate(
            &record(message),
            Timestamp::from_second(second).unwrap(),
            second as u64,
        ) {
            Told::New(event) => format!("new {}", event.message.unwrap()),
            Told::Again { name, event } => format!(
                "again {name} x{} {}",
                event.count.unwrap(),
                event.message.unwrap()
            ),
            Told::Spam => "spam".to_owned(),
        }
    }

    #[test]
    fn the_same_again_is_counted_and_many_alike_are_combined() {
        let mut correlator = Correlator::default();
        assert_eq!(told(&mut correlator, "a", 1), "new a");
        assert_eq!(told(&mut correlator, "a", 2), "again n/p.1 x2 a");
        for at in 0..8 {
            assert_eq!(
                told(&mut correlator, &format!("m{at}"), 10 + at),
                format!("new m{at}")
            );
        }
        assert_eq!(
            told(&mut correlator, "x", 30),
            "new (combined from similar events): x"
        );
        assert_eq!(
            told(&mut correlator, "y", 31),
            "again n/p.1e x2 (combined from similar events): y"
        );
        assert_eq!(
            told(&mut correlator, "z", 2000),
            "new z",
            "ten minutes later"
        );
    }

    #[test]
    fn spam_is_dropped_until_time_passes() {
        let mut correlator = Correlator::default();
        for _ in 0..25 {
            assert_ne!(told(&mut correlator, "a", 1), "spam");
        }
        assert_eq!(told(&mut correlator, "a", 2), "spam");
        assert_ne!(told(&mut correlator, "a", 302), "spam");
    }
}
