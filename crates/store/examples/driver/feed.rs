//! Batches as a busy lane has them: each takes in new executions, claims them at once, and ends those
//! of the batch before.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use domain::lane::{Class, Draft, Lane, Running};
use domain::{AttemptResult, Micros, Priority, RetryPolicy, decide};
use store::{Batch, Head, NewExecution, Outcome};
use uuid::Uuid;

const CLASS: Class = Class {
    tenant: 1,
    queue: 1,
    priority: Priority::Normal,
    job_type: 1,
    suspect: false,
};

/// One lane and what comes to it.
pub(crate) struct Feed {
    lane: Lane,
    head: Arc<Head>,
    worker: Arc<str>,
}

impl Feed {
    pub(crate) fn new(lane: Lane) -> Self {
        Self {
            lane,
            head: Arc::new(head()),
            worker: "worker-1".into(),
        }
    }

    /// The next batch, with `size` new executions.
    pub(crate) fn next(&self, size: u32) -> Batch {
        let at = Micros::from(SystemTime::now());
        let mut draft = self.lane.draft(at);
        let mut batch = Batch::default();
        for (seq, running) in self.lane.running() {
            batch.outcomes.push(self.end(&mut draft, *seq, running));
        }
        let first = draft.accept(CLASS, size);
        draft
            .claim(CLASS, size, &self.worker)
            .expect("what was just accepted waits");
        let (lane, home) = (self.lane.id(), at.hour());
        batch.executions = (first..first + u64::from(size))
            .map(|seq| NewExecution {
                lane,
                seq,
                home,
                head: Arc::clone(&self.head),
                place: store::Place::Window,
            })
            .collect();
        batch.rows.push(draft.seal(Uuid::new_v4().as_u128()));
        batch
    }

    /// The batch is committed.
    pub(crate) fn apply(&mut self, batch: &Batch) {
        for row in &batch.rows {
            self.lane
                .apply(row)
                .expect("a row that was planned for this lane fits it");
        }
    }

    fn end(&self, draft: &mut Draft<'_>, seq: u64, running: &Running) -> Outcome {
        let policy = RetryPolicy::default();
        let decision = decide(AttemptResult::Success.into(), running.budgets, &policy, 0.5);
        draft
            .end(seq, running.fence, &decision)
            .expect("it runs with this fence");
        Outcome {
            lane: self.lane.id(),
            seq,
            home: running.home,
            fence: running.fence,
            tenant: running.class.tenant,
            queue: running.class.queue,
            attempt: 1,
            result: Some(AttemptResult::Success),
            state: domain::ExecutionState::Succeeded,
            reason: decision.reason,
            budgets: decision.budgets,
            worker: Arc::clone(&self.worker),
            claimed: running.claimed,
            queued_us: 120,
            dispatch_us: 250,
            run_us: 40,
            report_us: 900,
            next_at: None,
            error_class: None,
            error_message: None,
            output: None,
            output_type: None,
            trace_kept: false,
            items: domain::Items::default(),
            progress: None,
            place: store::Place::Window,
        }
    }
}

/// 100 bytes and three headers.
fn head() -> Head {
    let headers = [
        ("content-language", "en"),
        ("x-request-id", "0b8f7c52-5f0e-4a63-9d0f"),
        ("x-origin", "billing"),
    ];
    Head {
        tenant: CLASS.tenant,
        queue: CLASS.queue,
        job_type: CLASS.job_type,
        priority: CLASS.priority,
        accepted: Micros(0),
        due: None,
        timeout: Duration::from_secs(300),
        retry_policy: 1,
        trace: Some([9; 25]),
        parent_span: None,
        request_at: Some(Micros::from(SystemTime::now())),
        tracestate: None,
        correlation_id: None,
        labels: store::Pairs::new(),
        headers: headers
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        payload: Bytes::from(vec![b'x'; 100]),
        content_type: Some("application/json".into()),
    }
}
