use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, Opts};
use rustix::param::page_size;
use rustix::time::{ClockId, clock_gettime};

use crate::metrics::Labels;

/// What the process takes of its machine, measured when somebody asks.
pub(crate) struct ProcessUsage {
    cpu: Gauge,
    memory: Gauge,
    /// When it was last asked, and the processor time used until then.
    last: Mutex<(Instant, Duration)>,
}

impl ProcessUsage {
    pub(crate) fn new(labels: &Labels<'_>) -> prometheus::Result<Self> {
        let gauge = |name, help| Gauge::with_opts(Opts::clone(&labels.opts(name, help)));
        Ok(Self {
            cpu: gauge(
                "worker_cpu_usage_percent",
                "Processor time since the scrape before, in percent of one core.",
            )?,
            memory: gauge("worker_memory_usage_bytes", "Resident memory.")?,
            last: Mutex::new((Instant::now(), cpu_time())),
        })
    }

    fn measure(&self) {
        let now = (Instant::now(), cpu_time());
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let wall = now.0.saturating_duration_since(last.0).as_secs_f64();
        if wall > 0.0 {
            let used = now.1.saturating_sub(last.1).as_secs_f64();
            self.cpu.set(100.0 * used / wall);
            *last = now;
        }
        if let Some(bytes) = resident_bytes() {
            self.memory.set(bytes);
        }
    }
}

impl Collector for ProcessUsage {
    fn desc(&self) -> Vec<&Desc> {
        [self.cpu.desc(), self.memory.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.measure();
        [self.cpu.collect(), self.memory.collect()].concat()
    }
}

/// Processor time that all threads of the process have used.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// `None` where there is no `/proc`.
fn resident_bytes() -> Option<f64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: f64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * page_size() as f64)
}
