//! Prometheus metrics of Caravel's own processes: one registry a process, upstream's names where upstream has them.
//!
//! A metric is created once and handed to the part that counts. Nothing here may block a hot path: label
//! lookups are done per request at most once, and text is made only when somebody scrapes.

mod process;
mod requests;

use prometheus::{Encoder, TextEncoder};

pub use prometheus;
pub use requests::{Guard, Observation, RequestMetrics};

/// Why a metric could not be made or shown.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// Two metrics of one name, or a malformed one: a programming error found at start.
    #[error("register metric: {0}")]
    Register(#[source] prometheus::Error),
    /// Text exposition failed.
    #[error("write metrics as text: {0}")]
    Encode(#[source] prometheus::Error),
}

/// The content type of [`Registry::text`].
pub const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All metrics of this process. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Registry(prometheus::Registry);

impl Registry {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Self {
        Self(prometheus::Registry::new())
    }

    /// Adds a collector.
    ///
    /// # Errors
    /// When a metric of the same name and labels exists already.
    pub fn register(
        &self,
        collector: impl prometheus::core::Collector + 'static,
    ) -> Result<(), MetricsError> {
        self.0
            .register(Box::new(collector))
            .map_err(MetricsError::Register)
    }

    /// Everything as Prometheus text (version 0.0.4), with the process's own figures.
    ///
    /// # Errors
    /// When a collector gives inconsistent families.
    pub fn text(&self) -> Result<Vec<u8>, MetricsError> {
        let mut families = self.0.gather();
        families.extend(process::families());
        families.retain(|family| !family.get_metric().is_empty());
        let mut out = Vec::with_capacity(16 * 1024);
        TextEncoder::new()
            .encode(&families, &mut out)
            .map_err(MetricsError::Encode)?;
        Ok(out)
    }
}
