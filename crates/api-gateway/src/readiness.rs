//! Whether the gateway takes traffic: while it knows the cluster, or did until a moment ago.

use std::sync::Arc;
use std::time::Duration;

use service::Readiness;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::cluster_view::View;
use crate::view_watcher::Sight;

/// How long a view is good without anybody who keeps it up to date.
const PATIENCE: Duration = Duration::from_secs(10);
const COMPONENT: &str = "schedulers";

/// Judges the view at every change, until it is dropped.
pub(crate) async fn report(
    readiness: Readiness,
    mut views: watch::Receiver<Arc<View>>,
    mut sight: watch::Receiver<Sight>,
) {
    loop {
        let has_schedulers = views.borrow_and_update().has_schedulers();
        let seen = *sight.borrow_and_update();
        readiness.set(COMPONENT, judge(seen, has_schedulers, Instant::now()));
        let deadline = match seen {
            Sight::LostAt(at) if at.elapsed() < PATIENCE => Some(at + PATIENCE),
            _ => None,
        };
        let change = tokio::select! {
            change = views.changed() => change,
            change = sight.changed() => change,
            () = until(deadline) => Ok(()),
        };
        if change.is_err() {
            return;
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn judge(sight: Sight, has_schedulers: bool, now: Instant) -> Result<(), String> {
    match sight {
        Sight::Never => Err("no scheduler was reached yet".to_owned()),
        Sight::Refused => Err(
            "every scheduler refuses this gateway's SERVICE_TOKEN: give all the same".to_owned(),
        ),
        _ if !has_schedulers => Err("the cluster has no live scheduler".to_owned()),
        Sight::LostAt(at) if now - at >= PATIENCE => Err(format!(
            "no scheduler was reached for {} s",
            PATIENCE.as_secs()
        )),
        Sight::Clear | Sight::LostAt(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_ready_with_a_scheduler_in_sight_or_just_lost() {
        let now = Instant::now();
        assert!(judge(Sight::Never, false, now).is_err());
        assert!(judge(Sight::Clear, false, now).is_err());
        let refused = judge(Sight::Refused, true, now).unwrap_err();
        assert!(refused.contains("SERVICE_TOKEN"), "{refused}");
        assert!(judge(Sight::Clear, true, now).is_ok());
        assert!(judge(Sight::LostAt(now), true, now + Duration::from_secs(9)).is_ok());
        assert!(judge(Sight::LostAt(now), true, now + Duration::from_secs(10)).is_err());
    }
}
