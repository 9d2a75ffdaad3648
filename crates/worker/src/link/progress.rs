use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::v1;
use proto::v1::work_request::Message as Request;

use super::Link;
use super::held::Stage;
use super::peers::PeerId;
use crate::account::{Attempt, progress_on_wire};

/// How often it is told of one attempt how far it is, at most.
const PACE: Duration = Duration::from_secs(1);

/// How far attempts are, as far as schedulers don't know.
#[derive(Default)]
pub(super) struct News {
    attempts: HashSet<Attempt>,
    /// When it was told last of attempts, for as long as that matters.
    told: HashMap<Attempt, Instant>,
}

impl News {
    pub(super) fn note(&mut self, attempt: Attempt) {
        self.attempts.insert(attempt);
    }

    fn ripe(&mut self, now: Instant) -> Vec<Attempt> {
        self.told
            .retain(|_, at| now.saturating_duration_since(*at) < PACE);
        let told = &self.told;
        self.attempts
            .extract_if(|attempt| !told.contains_key(attempt))
            .collect()
    }
}

impl Link {
    /// Tells how far attempts are, of each at most once a second. What can't be told is no loss: more comes.
    pub(super) fn send_progress(&mut self, now: Instant) {
        let mut reports: BTreeMap<PeerId, Vec<v1::ProgressReport>> = BTreeMap::new();
        for (id, fence) in self.news.ripe(now) {
            let held = self.holdings.running_under(id, fence);
            let Some((held, Stage::Running { shared })) = held.map(|held| (held, &held.stage))
            else {
                continue;
            };
            let (progress, peer) = (
                shared.account.take_news(),
                self.route(id.lane(), held.origin),
            );
            if let (Some(progress), Some(peer)) = (progress, peer) {
                self.news.told.insert((id, fence), now);
                reports.entry(peer).or_default().push(v1::ProgressReport {
                    execution_id: Bytes::copy_from_slice(id.as_bytes()),
                    fence,
                    progress: Some(progress_on_wire(&progress)),
                });
            }
        }
        for (peer, reports) in reports {
            self.peers
                .send(peer, Request::Progress(v1::ProgressReports { reports }));
        }
    }
}
