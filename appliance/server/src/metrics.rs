//! Numbers for Prometheus, on listeners of kind `metrics` only.

use std::time::Duration;

use axum::Router;
use axum::routing::get;
use http::header;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::lifecycle::moment;

/// Seconds: from a cached read to a client's long-poll.
const SECONDS_BUCKETS: [f64; 12] =
    [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

/// How often histograms are folded, so that they do not grow between two scrapes: by a megabyte at
/// most at some thousand requests a second.
const UPKEEP: Duration = Duration::from_secs(15);

/// All numbers of this process.
#[derive(Clone)]
pub struct Metrics {
    prometheus: PrometheusHandle,
    started: Instant,
}

impl Metrics {
    /// Installs the recorder behind the `metrics` macros.
    ///
    /// # Errors
    ///
    /// There is one already.
    pub fn install() -> Result<Self, String> {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS_BUCKETS)
            .map_err(|error| error.to_string())?
            .build_recorder();
        let prometheus = recorder.handle();
        metrics::set_global_recorder(recorder).map_err(|error| error.to_string())?;
        metrics::gauge!("wardstone_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        metrics::gauge!("wardstone_conformance_mode").set(0.0);
        Ok(Self { prometheus, started: moment() })
    }

    /// Folds histograms until told to stop.
    pub async fn upkeep(self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(UPKEEP);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            self.prometheus.run_upkeep();
        }
    }

    /// `GET /metrics`
    pub fn router(&self) -> Router {
        let metrics = self.clone();
        let headers = [
            (header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8"),
            (header::CACHE_CONTROL, "no-store"),
        ];
        Router::new().route("/metrics", get(move || async move { (headers, metrics.text()) }))
    }

    fn text(&self) -> String {
        metrics::gauge!("wardstone_uptime_seconds").set((moment() - self.started).as_secs_f64());
        process::measure();
        self.prometheus.render()
    }
}

/// What the kernel says about this process, under the names that Prometheus dashboards know.
mod process {
    use std::fs;

    pub fn measure() {
        if let Some(seconds) = cpu_seconds() {
            metrics::gauge!("process_cpu_seconds_total").set(seconds);
        }
        if let Some(bytes) = resident_bytes() {
            metrics::gauge!("process_resident_memory_bytes").set(bytes as f64);
        }
        if let Ok(entries) = fs::read_dir("/proc/self/fd") {
            metrics::gauge!("process_open_fds").set(entries.count() as f64);
        }
    }

    /// `utime` and `stime`, fields 14 and 15 of proc_pid_stat(5).
    fn cpu_seconds() -> Option<f64> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        // The second field is a name in parentheses that may hold spaces.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks: u64 =
            fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
        Some(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
    }

    /// The second field of proc_pid_statm(5), in pages.
    fn resident_bytes() -> Option<usize> {
        let statm = fs::read_to_string("/proc/self/statm").ok()?;
        let pages: usize = statm.split_whitespace().nth(1)?.parse().ok()?;
        Some(pages * rustix::param::page_size())
    }

    #[cfg(test)]
    mod tests {
        #[test]
        fn the_kernel_tells() {
            assert!(super::cpu_seconds().is_some());
            assert!(super::resident_bytes().is_some_and(|bytes| bytes > 1_000_000));
        }
    }
}
