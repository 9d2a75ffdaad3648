//! One stream of one worker.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domain::limits::{self, LimitError};
use domain::{ExecutionId, Progress};
use futures::{Stream, StreamExt};
use proto::v1::checkpoints::Checkpoint;
use proto::v1::{
    CheckpointAnswers, CheckpointVerdict, ClusterView, Heartbeat, HeartbeatAnswer, Held, Hello,
    Revoke, Welcome, WorkRequest, work_request, work_response,
};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::from_worker::{checkpoint_of, progress_of, report_of, said_held};
use super::trouble;
use crate::demand::DemandTold;
use crate::group::{HeldTask, Holding, Input, Report, SaidHeld, SentCheckpoint, checkpoint_answer};
use crate::session::{Capabilities, Outbound, Profile, Session};
use crate::shared::{Groups, Shared};

/// What a worker hears that says hello at a bad time.
const NOT_SURE: &str = "this scheduler isn't sure of its lanes just now; try again in a second";

/// A worker's stream, past its Hello.
pub(crate) struct WorkStream {
    shared: Arc<Shared>,
    groups: Groups,
    session: Arc<Session>,
    connection: u64,
    views: watch::Receiver<Arc<ClusterView>>,
    demand: DemandTold,
}

impl WorkStream {
    /// Welcomes a worker: makes its types known, sets right what both sides think it holds, and only
    /// then lets tasks go down the stream.
    pub(crate) async fn open(
        shared: Arc<Shared>,
        groups: Groups,
        (tenant, hello): (i32, Hello),
        outbound: Outbound,
    ) -> Result<Self, Status> {
        check(&hello).map_err(|error| Status::invalid_argument(error.to_string()))?;
        // A scheduler that has just begun knows nobody's lanes: a worker that takes it for the owner that it was
        // before would have a longer right by its welcome.
        if shared.view.borrow().schedulers.is_empty() {
            return Err(Status::unavailable(NOT_SURE));
        }
        let incarnation: [u8; 16] = hello.incarnation[..]
            .try_into()
            .map_err(|_| Status::invalid_argument("incarnation must have 16 bytes"))?;
        let announced = shared.catalog.announce(tenant, &hello.job_types).await;
        announced.map_err(|error| trouble(&error))?;
        let capabilities = Capabilities {
            tenant,
            types: hello.job_types.into_iter().collect(),
            queues: hello.queues.into_iter().collect(),
        };
        let profile = Profile {
            pool: hello.pool,
            version: hello.version,
            slots: hello.slots,
        };
        let lease = shared.worker_lease;
        let session = shared.sessions.open(
            &hello.worker_id,
            incarnation,
            (capabilities, profile),
            lease,
        );
        // What is on its way down an older stream is lost: the worker has told what it holds.
        let connection = shared.sessions.next_number();
        session.suspend(connection);
        let views = shared.view.subscribe();
        let mut stream = Self {
            shared,
            groups,
            session,
            connection,
            views,
            demand: DemandTold::default(),
        };
        // Whoever is welcomed takes it that all groups know what he holds, and what he doesn't.
        let told = stream.tell_groups(&hello.held, true).await;
        let revoked = told.ok_or_else(|| Status::unavailable(NOT_SURE))?;
        stream
            .session
            .set_window(hello.window.min(limits::MAX_SLOTS), 0);
        stream.welcome(outbound);
        stream.revoke(revoked);
        stream.ask_again();
        Ok(stream)
    }

    fn welcome(&mut self, outbound: Outbound) {
        let lease = self.shared.worker_lease;
        let micros = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
        let view = ClusterView::clone(&self.views.borrow());
        let welcome = work_response::Message::Welcome(Welcome {
            scheduler_id: self.shared.scheduler_id.clone(),
            lease_us: micros(lease),
            heartbeat_us: micros(lease / 3),
            cluster_view: Some(view),
        });
        let first = proto::v1::WorkResponse {
            message: Some(welcome),
        };
        // The first message of all has room.
        let _ = outbound.try_send(Ok(first));
        self.session.attach(self.connection, outbound);
        self.session.drain_again();
        tracing::info!(
            event = "worker_connected",
            worker_id = &*self.session.worker_id,
            "worker connected"
        );
    }

    /// A lane that came while the stream was being opened may have come after its group was told what the worker
    /// holds, and was announced to nobody here: the worker sees each lane come again, and tells once more.
    fn ask_again(&mut self) {
        if !self.views.has_changed().unwrap_or(false) {
            return;
        }
        let mut before = ClusterView::clone(&self.views.borrow());
        self.shared.disown(&mut before, |_| true);
        self.session
            .send(work_response::Message::ClusterView(before));
        self.show_view();
    }

    /// Notes where the stream comes from. Two processes of one name are two workers, each with what it holds;
    /// but whoever looks for one finds the other, so people are told.
    pub(crate) fn introduce(&self, address: String) {
        self.session.note_address(address);
        let Some(other) = self.shared.sessions.namesake(&self.session) else {
            return;
        };
        tracing::warn!(
            event = "worker_id_shared",
            worker_id = &*self.session.worker_id,
            address = self.session.address(),
            other_address = other.address(),
            "two workers call themselves alike: give each its own WORKER_ID"
        );
    }

    /// Serves the stream until it ends.
    pub(crate) async fn serve(
        mut self,
        mut requests: impl Stream<Item = Result<WorkRequest, Status>> + Unpin,
        shutdown: CancellationToken,
    ) {
        loop {
            tokio::select! {
                biased;
                request = requests.next() => match request {
                    Some(Ok(request)) => {
                        if !self.take(request).await {
                            break;
                        }
                    }
                    None => break,
                    Some(Err(status)) => {
                        self.shared.metrics.stream_errors.inc();
                        tracing::warn!(event = "worker_stream_broken",
                            worker_id = &*self.session.worker_id, error = status.message(),
                            "a worker's stream broke; its lease runs on");
                        break;
                    }
                },
                changed = self.views.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    self.show_view();
                }
                demand = self.demand.next(&self.session) => {
                    self.session.send(work_response::Message::Demand(demand));
                }
                () = shutdown.cancelled() => break,
            }
        }
        self.session.detach(self.connection);
    }

    /// Does what a worker says; says whether the stream goes on. What it said before it opened a newer one is out
    /// of date.
    async fn take(&mut self, request: WorkRequest) -> bool {
        if !self.session.is_current(self.connection) {
            return false;
        }
        match request.message {
            Some(work_request::Message::Results(results)) => {
                let reports = results.results.into_iter().filter_map(report_of);
                self.tell(
                    reports.collect(),
                    |report: &Report| report.id,
                    Input::Reports,
                )
                .await;
            }
            Some(work_request::Message::Checkpoints(sent)) => self.save(sent.checkpoints).await,
            Some(work_request::Message::Progress(sent)) => {
                let reports = sent.reports.into_iter().filter_map(progress_of);
                let id = |((id, _), _): &(HeldTask, Progress)| *id;
                self.tell(reports.collect(), id, Input::Progress).await;
            }
            Some(work_request::Message::Heartbeat(beat)) => self.answer(&beat),
            Some(work_request::Message::Window(window)) => {
                let tasks = window.tasks.min(limits::MAX_SLOTS);
                self.session.set_window(tasks, window.permit);
            }
            Some(work_request::Message::Holding(holding)) => {
                let Some(revoked) = self.tell_groups(&holding.held, false).await else {
                    return false;
                };
                self.revoke(revoked);
            }
            Some(work_request::Message::Goodbye(_)) => {
                tracing::info!(
                    event = "worker_left",
                    worker_id = &*self.session.worker_id,
                    "worker said goodbye"
                );
                self.session.leave();
            }
            // A second Hello, or what a later version says.
            Some(work_request::Message::Hello(_)) | None => {}
        }
        true
    }

    fn show_view(&mut self) {
        let view = ClusterView::clone(&self.views.borrow_and_update());
        self.session.send(work_response::Message::ClusterView(view));
    }

    /// An answered beat is a longer lease: who may have lost its lanes doesn't answer, and who gave some up
    /// says so first.
    fn answer(&mut self, beat: &Heartbeat) {
        if self.shared.deadline.has_passed() {
            return;
        }
        if self.views.has_changed().unwrap_or(false) {
            self.show_view();
        }
        self.session.renew(self.shared.worker_lease);
        self.session.hear(beat.running, beat.draining);
        let answer = HeartbeatAnswer {
            number: beat.number,
        };
        self.session
            .send(work_response::Message::HeartbeatAnswer(answer));
    }

    /// Tells each group what the worker says of executions of its lanes.
    async fn tell<T>(
        &self,
        said: Vec<T>,
        id: impl Fn(&T) -> ExecutionId,
        input: impl Fn(Arc<Session>, Vec<T>) -> Input,
    ) {
        if self.shared.deadline.has_passed() {
            return;
        }
        let groups = self.groups.0.len();
        let mut by_group: Vec<Vec<T>> = (0..groups).map(|_| Vec::new()).collect();
        for item in said {
            by_group[self.groups.place_of(id(&item).lane())].push(item);
        }
        for (group, said) in self.groups.0.iter().zip(by_group) {
            if !said.is_empty() {
                group.send(input(Arc::clone(&self.session), said)).await;
            }
        }
    }

    /// Has checkpoints saved; one that is too large is refused here.
    async fn save(&self, sent: Vec<Checkpoint>) {
        let sent = sent.into_iter().filter_map(checkpoint_of);
        let (sent, too_large): (Vec<_>, Vec<_>) =
            sent.partition(|sent| sent.state.len() <= limits::MAX_CHECKPOINT_BYTES);
        if !too_large.is_empty() {
            let verdict = CheckpointVerdict::TooLarge;
            let answers = too_large.iter();
            let answers = answers.map(|sent| checkpoint_answer(sent.id, sent.mark, verdict));
            let answers = answers.collect();
            self.session.send(work_response::Message::CheckpointAnswers(
                CheckpointAnswers { answers },
            ));
        }
        self.tell(sent, |sent: &SentCheckpoint| sent.id, Input::Checkpoints)
            .await;
    }

    /// Tells every group what the worker holds; gives what it has no right to, if all of them can judge.
    async fn tell_groups(&self, held: &[Held], complete: bool) -> Option<Vec<HeldTask>> {
        let held: Vec<SaidHeld> = held.iter().filter_map(said_held).collect();
        let groups = self.groups.0.len();
        let mut revoked = Vec::new();
        for (place, group) in self.groups.0.iter().enumerate() {
            let concerns = |said: &&SaidHeld| usize::from(said.task.0.lane().0) % groups == place;
            let held = held.iter().filter(concerns).copied().collect();
            let (reply, answer) = oneshot::channel();
            let session = Arc::clone(&self.session);
            group
                .send(Input::Holding(Holding {
                    session,
                    held,
                    complete,
                    reply,
                }))
                .await;
            revoked.extend(answer.await.ok().flatten()?);
        }
        Some(revoked)
    }

    fn revoke(&self, tasks: Vec<HeldTask>) {
        if tasks.is_empty() {
            return;
        }
        let held = tasks.into_iter().map(|(id, fence)| {
            let execution_id = Bytes::copy_from_slice(id.as_bytes());
            Held {
                execution_id,
                fence,
                lane_epoch: 0,
            }
        });
        self.session.send(work_response::Message::Revoke(Revoke {
            held: held.collect(),
        }));
    }
}

fn check(hello: &Hello) -> Result<(), LimitError> {
    limits::check_name("worker_id", &hello.worker_id)?;
    if hello.job_types.is_empty() || hello.job_types.len() > limits::MAX_WORKER_TYPES {
        let message = format!("{} types; 1 to 1000 are allowed", hello.job_types.len());
        return Err(LimitError::new("job_types", message));
    }
    for name in &hello.job_types {
        limits::check_type_name("job_types", name)?;
    }
    for name in &hello.queues {
        limits::check_name("queues", name)?;
    }
    if !(1..=limits::MAX_SLOTS).contains(&hello.slots) {
        return Err(LimitError::new(
            "slots",
            format!("{} must be 1 to 100000", hello.slots),
        ));
    }
    Ok(())
}
