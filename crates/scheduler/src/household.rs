//! What the leader has done about old windows beside its own work, since it may take long.

use std::time::Duration;

use domain::Micros;
use store::{Error, KeepHouse, SharedStorage};
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
    database: SharedStorage,
    round: Option<JoinHandle<()>>,
    last: Instant,
}

impl Household {
    pub(crate) fn new(database: SharedStorage) -> Self {
        Self {
            database,
            round: None,
            last: Instant::now(),
        }
    }

    /// Begins a round if it is time for one and the last has ended, however it did.
    pub(crate) fn keep(&mut self, now: Micros) {
        let under_way = self
            .round
            .as_ref()
            .is_some_and(|round| !round.is_finished());
        if under_way || self.last.elapsed() < EVERY {
            return;
        }
        self.last = Instant::now();
        let mut keeper = self.database.housekeeper();
        self.round = Some(tokio::spawn(async move {
            if let Err(error) = round(&mut *keeper, now).await {
                tracing::warn!(%error, "old windows can't be seen to just now");
            }
        }));
    }
}

async fn round(keeper: &mut dyn KeepHouse, now: Micros) -> Result<(), Error> {
    keeper.remove_windows(UNUSED).await?;
    let quiet = i64::try_from(QUIET.as_micros()).unwrap_or(i64::MAX);
    keeper.freeze_windows(Micros(now.0 - quiet)).await?;
    Ok(())
}
