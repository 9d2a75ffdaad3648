//! What the leader has done about old windows beside its own work, since it may take long.

use std::time::Duration;

use domain::Micros;
use store::{Error, KeepHouse};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How often it is looked what there is to do.
const EVERY: Duration = Duration::from_secs(10);
/// How long a window has been out of use before its leaf goes: longer than it takes every scheduler to read
/// the windows anew and to end what it reads.
const UNUSED: Duration = Duration::from_secs(15);
/// How long nobody has written to a leaf before it is frozen.
const QUIET: Duration = Duration::from_secs(2 * 3_600);

/// One round at a time.
pub(crate) struct Household {
    idle: Option<Box<dyn KeepHouse>>,
    round: Option<JoinHandle<Box<dyn KeepHouse>>>,
    last: Instant,
}

impl Household {
    pub(crate) fn new(keeper: Box<dyn KeepHouse>) -> Self {
        Self {
            idle: Some(keeper),
            round: None,
            last: Instant::now(),
        }
    }

    /// Begins a round if it is time for one and the last has ended.
    pub(crate) fn keep(&mut self, now: Micros) {
        if self.last.elapsed() < EVERY {
            return;
        }
        if let Some(round) = self.round.take_if(|round| round.is_finished()) {
            // A round never panics, so its keeper comes back.
            self.idle = futures::FutureExt::now_or_never(round).and_then(Result::ok);
        }
        let Some(mut keeper) = self.idle.take() else {
            return;
        };
        self.last = Instant::now();
        self.round = Some(tokio::spawn(async move {
            if let Err(error) = round(&mut *keeper, now).await {
                tracing::warn!(%error, "old windows can't be seen to just now");
            }
            keeper
        }));
    }
}

async fn round(keeper: &mut dyn KeepHouse, now: Micros) -> Result<(), Error> {
    keeper.remove_windows(UNUSED).await?;
    let quiet = i64::try_from(QUIET.as_micros()).unwrap_or(i64::MAX);
    keeper.freeze_windows(Micros(now.0 - quiet)).await?;
    Ok(())
}
