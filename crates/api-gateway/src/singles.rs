//! Single submissions to one scheduler. With none out, one goes at once; those that come while one
//! is out go together as soon as its answer is there. So a quiet gateway adds no wait, and a busy one
//! makes large forwards, without a timer. Nobody's idempotency key holds up the rest: an item whose key may be held by
//! a transaction comes back at once, and waits by itself.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prost::Message as _;
use proto::internal::v1::ForwardedSubmission;
use proto::v1::SubmitVerdict;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::scheduler_link::{CallFailure, SchedulerLink, is_key_held};

/// What one forward takes along at most.
const MAX_ITEMS: usize = 500;
const MAX_BYTES: usize = 4 << 20;
/// What may wait for one scheduler; past it callers are refused.
const MAX_WAITING_ITEMS: usize = 20_000;
const MAX_WAITING_BYTES: usize = 64 << 20;

type Verdict = Result<SubmitVerdict, CallFailure>;

/// What waits for the forward that is out.
#[derive(Default)]
pub(crate) struct Singles {
    line: Mutex<Line>,
}

#[derive(Default)]
struct Line {
    is_out: bool,
    waiting: VecDeque<Waiting>,
    bytes: usize,
}

struct Waiting {
    item: Box<ForwardedSubmission>,
    bytes: usize,
    verdict: oneshot::Sender<Verdict>,
}

/// What a new item does.
enum Place {
    Goes(Box<ForwardedSubmission>),
    Waits(oneshot::Receiver<Verdict>),
    Full,
}

impl SchedulerLink {
    /// Hands over one item, alone or with others. Its caller may give up at any time: an item that
    /// still waits isn't sent then, and those that travel with it aren't harmed.
    pub(crate) async fn submit_single(self: &Arc<Self>, item: Box<ForwardedSubmission>) -> Verdict {
        let keyed = has_key(&item).then(|| item.clone());
        let place = self.singles.line().take_in(item);
        let verdict = match place {
            Place::Goes(item) => {
                let _next = NextForward(self);
                self.submit_alone(*item, true).await
            }
            Place::Waits(verdict) => verdict
                .await
                .unwrap_or_else(|_| Err(CallFailure::given_up())),
            Place::Full => Err(CallFailure::overloaded(
                "too many submissions wait for their scheduler; try again in a second",
            )),
        };
        match keyed {
            Some(item) if verdict.as_ref().is_ok_and(is_key_held) => {
                self.submit_alone(*item, false).await
            }
            _ => verdict,
        }
    }

    async fn submit_alone(&self, item: ForwardedSubmission, hasty: bool) -> Verdict {
        let mut verdicts = self.submit(vec![item], hasty).await?;
        Ok(verdicts.pop().unwrap_or_default())
    }

    /// Forwards what waits until nothing does.
    async fn forward_waiting(self: Arc<Self>) {
        loop {
            let Some(batch) = self.singles.line().next_forward() else {
                return;
            };
            let (items, callers): (Vec<_>, Vec<_>) = batch
                .into_iter()
                .map(|waiting| (*waiting.item, waiting.verdict))
                .unzip();
            tracing::debug!(event = "singles_forwarded", items = items.len(), "forward");
            // A caller that is gone can't be told; its item is taken all the same.
            match self.submit(items, true).await {
                Ok(verdicts) => callers
                    .into_iter()
                    .zip(verdicts)
                    .for_each(|(caller, verdict)| {
                        let _ = caller.send(Ok(verdict));
                    }),
                Err(failure) => callers.into_iter().for_each(|caller| {
                    let _ = caller.send(Err(failure.clone()));
                }),
            }
        }
    }
}

fn has_key(item: &ForwardedSubmission) -> bool {
    let submission = item.submission.as_ref();
    submission.is_some_and(|submission| !submission.idempotency_key.is_empty())
}

/// Sees to it that those who wait go next, also if the caller whose item was out is gone.
struct NextForward<'a>(&'a Arc<SchedulerLink>);

impl Drop for NextForward<'_> {
    fn drop(&mut self) {
        let mut line = self.0.singles.line();
        if line.waiting.is_empty() {
            line.is_out = false;
        } else if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(Arc::clone(self.0).forward_waiting());
        }
    }
}

impl Singles {
    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    fn take_in(&mut self, item: Box<ForwardedSubmission>) -> Place {
        if !self.is_out {
            self.is_out = true;
            return Place::Goes(item);
        }
        let bytes = item.encoded_len();
        if self.waiting.len() >= MAX_WAITING_ITEMS || self.bytes + bytes > MAX_WAITING_BYTES {
            return Place::Full;
        }
        let (verdict, answer) = oneshot::channel();
        self.bytes += bytes;
        self.waiting.push_back(Waiting {
            item,
            bytes,
            verdict,
        });
        Place::Waits(answer)
    }

    /// The items that go next; `None`, and nothing is out any more, if nobody waits.
    fn next_forward(&mut self) -> Option<Vec<Waiting>> {
        let mut forward = Vec::new();
        let mut bytes = 0;
        while forward.len() < MAX_ITEMS {
            let Some(first) = self.waiting.pop_front() else {
                break;
            };
            if !forward.is_empty() && bytes + first.bytes > MAX_BYTES {
                self.waiting.push_front(first);
                break;
            }
            self.bytes -= first.bytes;
            if !first.verdict.is_closed() {
                bytes += first.bytes;
                forward.push(first);
            }
        }
        self.is_out = !forward.is_empty();
        self.is_out.then_some(forward)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proto::v1::Submission;

    use super::*;

    fn item(payload: usize) -> Box<ForwardedSubmission> {
        let payload = Bytes::from(vec![0; payload]);
        let submission = Submission {
            payload,
            ..Submission::default()
        };
        Box::new(ForwardedSubmission {
            submission: Some(submission),
            ..ForwardedSubmission::default()
        })
    }

    fn wait(line: &mut Line, payload: usize) -> oneshot::Receiver<Verdict> {
        match line.take_in(item(payload)) {
            Place::Waits(verdict) => verdict,
            Place::Goes(_) | Place::Full => panic!("it should wait"),
        }
    }

    #[test]
    fn the_first_goes_alone_and_the_rest_go_together() {
        let mut line = Line::default();
        assert!(matches!(line.take_in(item(1)), Place::Goes(_)));
        let waiting: Vec<_> = (0..3).map(|_| wait(&mut line, 1)).collect();
        assert_eq!(
            line.next_forward().map(|forward| forward.len()),
            Some(waiting.len())
        );
        assert!(line.next_forward().is_none());
        assert!(matches!(line.take_in(item(1)), Place::Goes(_)));
    }

    #[test]
    fn a_forward_ends_at_its_limits() {
        let mut line = Line {
            is_out: true,
            ..Line::default()
        };
        let large: Vec<_> = (0..9).map(|_| wait(&mut line, 1 << 20)).collect();
        let sizes: Vec<_> = std::iter::from_fn(|| line.next_forward().map(|f| f.len())).collect();
        assert_eq!(sizes, [3, 3, 3], "{} items", large.len());
        line.is_out = true;
        let small: Vec<_> = (0..501).map(|_| wait(&mut line, 0)).collect();
        let sizes: Vec<_> = std::iter::from_fn(|| line.next_forward().map(|f| f.len())).collect();
        assert_eq!(sizes, [500, 1], "{} items", small.len());
        assert_eq!(line.bytes, 0);
    }

    #[test]
    fn what_nobody_waits_for_any_more_is_not_sent() {
        let mut line = Line {
            is_out: true,
            ..Line::default()
        };
        drop(wait(&mut line, 1));
        assert!(line.next_forward().is_none());
        assert!(!line.is_out);
    }

    #[test]
    fn past_the_limit_callers_are_refused() {
        let mut line = Line {
            is_out: true,
            ..Line::default()
        };
        let waiting: Vec<_> = (0..63).map(|_| wait(&mut line, 1 << 20)).collect();
        assert!(
            matches!(line.take_in(item(1 << 20)), Place::Full),
            "{}",
            waiting.len()
        );
    }
}
