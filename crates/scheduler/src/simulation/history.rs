use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

/// What happened in a world, in order.
#[derive(Clone)]
pub(crate) struct History {
    begin: Instant,
    lines: Arc<Mutex<Vec<String>>>,
    loud: bool,
}

impl History {
    pub(super) fn new(loud: bool) -> Self {
        Self {
            begin: Instant::now(),
            lines: Arc::default(),
            loud,
        }
    }

    /// Notes a line, if anybody will read it.
    pub(super) fn note(&self, line: impl FnOnce() -> String) {
        if self.loud {
            let line = format!("{:9.3} {}", self.begin.elapsed().as_secs_f64(), line());
            println!("{line}");
            self.lines
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(line);
        }
    }
}
