use tokio::time::Instant;

/// What happens in a world, in order.
#[derive(Clone)]
pub(crate) struct History {
    begin: Instant,
    loud: bool,
}

impl History {
    pub(super) fn new(loud: bool) -> Self {
        Self {
            begin: Instant::now(),
            loud,
        }
    }

    /// Prints a line, if somebody wants to read this history.
    pub(super) fn note(&self, line: impl FnOnce() -> String) {
        if self.loud {
            println!("{:9.3} {}", self.begin.elapsed().as_secs_f64(), line());
        }
    }
}
