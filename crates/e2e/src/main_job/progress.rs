//! What is shown while the work is under way.

use std::io::{IsTerminal, stderr};
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;

use crate::{Counts, Tracker};

const BAR_EVERY: Duration = Duration::from_millis(100);
const LINE_EVERY: Duration = Duration::from_secs(2);

/// A progress bar on a terminal, a line now and then elsewhere. Ends when it is dropped.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    _updates: AbortOnDropHandle<()>,
}

impl Progress {
    /// Shows how many of `all` executions that the tracker follows have ended.
    pub(super) fn show(tracker: Arc<Tracker>, all: usize) -> Self {
        let bar = stderr().is_terminal().then(|| bar(all));
        let (shown, every) = (
            bar.clone(),
            if bar.is_some() { BAR_EVERY } else { LINE_EVERY },
        );
        let updates = tokio::spawn(async move {
            let mut ticks = interval(every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            loop {
                ticks.tick().await;
                let counts = tracker.counts();
                match &shown {
                    Some(bar) => {
                        bar.set_position(counts.ended as u64);
                        bar.set_message(stands(&counts));
                    }
                    None if counts.followed > 0 && counts.ended < all => {
                        println!("  {:>4} of {all} done  {}", counts.ended, stands(&counts));
                    }
                    None => {}
                }
            }
        });
        Self {
            bar,
            _updates: AbortOnDropHandle::new(updates),
        }
    }

    /// Says something that stays.
    pub(super) fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| println!("{text}")),
            None => println!("{text}"),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar(all: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("  {bar:32} {pos:>4} of {len} done  {msg}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(all as u64).with_style(style.progress_chars("━━─"))
}

fn stands(counts: &Counts) -> String {
    format!(
        "{:>3} running  {:>3} waiting  {:>3} to be retried",
        counts.running, counts.waiting, counts.retrying
    )
}
