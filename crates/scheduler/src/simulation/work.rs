//! A worker of the world: it keeps to the protocol, and to its leases.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use domain::ExecutionId;
use proto::v1::{
    AttemptError, AttemptResult, ClusterView, Demand, Goodbye, Heartbeat, Held, Hello, Holding,
    Results, SettlementVerdict, Task, Window, WorkRequest, WorkResponse, work_request,
    work_response,
};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::Status;

use super::link::Link;
use super::replica::{Replica, WORKER_LEASE};
use super::saving::Saving;
use super::storage::{TENANT, TYPE};
use super::world::World;
use crate::rpc::WorkStream;
use crate::session::UNREAD;

const SLOTS: u32 = 6;
/// How often it looks at its leases, its results and who there is.
const LOOK: Duration = Duration::from_millis(200);

type Requests = mpsc::UnboundedSender<Result<WorkRequest, Status>>;

/// What a stream brings: from whom, by which stream; nothing: it broke.
type Event = (String, u64, Option<WorkResponse>);

/// A stream to one scheduler.
pub(super) struct Stream {
    number: u64,
    pub(super) requests: Requests,
    /// When its Hello was sent.
    sent: Instant,
    /// What it was told last of its permit for suspects, and what it wants.
    permit: u64,
    demand: Demand,
    /// When beats were sent that aren't answered.
    beats: BTreeMap<u64, Instant>,
    link: std::sync::Arc<Link>,
}

impl Stream {
    /// Gives it the permit, or asks it back.
    fn turn_permit(&mut self) {
        self.permit += 1;
        let window = Window {
            tasks: SLOTS / 2,
            permit: self.permit,
        };
        let _ = self
            .requests
            .send(request(work_request::Message::Window(window)));
    }
}

/// A task that it holds: begun, or done and not settled.
pub(super) struct HeldTask {
    /// The scheduler that handed it out.
    origin: String,
    /// The lane's owner, by whose lease it has the right.
    by: Option<String>,
    /// Until when it has it by the leases of earlier owners.
    granted: Instant,
    until: Instant,
    pub(super) done: Option<proto::v1::Result>,
    pub(super) saving: Saving,
    cancelled: bool,
    taken_back: bool,
    suspect: bool,
}

pub(super) struct Worker {
    pub(super) name: String,
    incarnation: u64,
    pub(super) world: World,
    pub(super) chance: StdRng,
    pub(super) streams: BTreeMap<String, Stream>,
    leases: BTreeMap<String, Instant>,
    pub(super) held: BTreeMap<(ExecutionId, u64), HeldTask>,
    /// The owner of each lane, and the number of its lease.
    owners: BTreeMap<usize, (u64, Option<String>)>,
    /// The schedulers that it can't reach, and until when.
    apart: BTreeMap<String, Instant>,
    /// Who may hand out suspects, or may have done so.
    permitted: Option<String>,
    number: u64,
    events: (mpsc::UnboundedSender<Event>, mpsc::UnboundedReceiver<Event>),
}

/// What is done to a worker from outside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    Kill,
    Stop(Duration),
    Leave,
    /// It can't reach one of the schedulers.
    Part(&'static str, Duration),
}

impl Worker {
    pub(super) fn new(world: World, name: &str, incarnation: u64, chance: StdRng) -> Self {
        Self {
            name: name.to_owned(),
            incarnation,
            world,
            chance,
            streams: BTreeMap::new(),
            leases: BTreeMap::new(),
            held: BTreeMap::new(),
            owners: BTreeMap::new(),
            apart: BTreeMap::new(),
            permitted: None,
            number: 0,
            events: mpsc::unbounded_channel(),
        }
    }

    /// Works until it is killed or leaves.
    pub(super) async fn run(mut self, mut faults: mpsc::UnboundedReceiver<Fault>) {
        let mut look = Instant::now();
        loop {
            self.pass_permit();
            let ends = self.held.values().filter(|held| held.done.is_none());
            let saves = ends.clone().filter_map(|held| held.saving.at);
            let next = ends
                .map(|held| held.until)
                .chain(saves)
                .chain(self.next_lapse());
            let next = next.min().map_or(look, |end| end.min(look));
            tokio::select! {
                biased;
                fault = faults.recv() => match fault {
                    Some(Fault::Stop(duration)) => {
                        self.pause(true);
                        tokio::time::sleep(duration).await;
                        // First of all it looks whether it still has its rights.
                        self.drop_what_lapsed();
                        self.pause(false);
                    }
                    Some(Fault::Part(scheduler, duration)) => {
                        self.streams.remove(scheduler);
                        self.apart.insert(scheduler.to_owned(), Instant::now() + duration);
                    }
                    Some(Fault::Leave) => return self.leave(),
                    Some(Fault::Kill) | None => return self.die(),
                },
                Some((from, number, message)) = self.events.1.recv() => {
                    let stream = self.streams.get(&from);
                    match message {
                        _ if stream.is_none_or(|stream| stream.number != number) => {}
                        Some(message) => self.take(&from, message),
                        None => drop(self.streams.remove(&from)),
                    }
                }
                () = tokio::time::sleep_until(next) => {
                    self.drop_what_lapsed();
                    self.save();
                    self.finish();
                    if Instant::now() >= look {
                        look = Instant::now() + LOOK;
                        self.look().await;
                    }
                }
            }
        }
    }

    /// Connects to everybody, beats, sends results again.
    async fn look(&mut self) {
        // A process that dies resets its connections.
        self.streams.retain(|_, stream| !stream.link.is_dead());
        self.apart.retain(|_, until| *until > Instant::now());
        for replica in self.world.replicas() {
            let there = !self.apart.contains_key(&replica.name);
            if there && !self.streams.contains_key(&replica.name) {
                self.connect(&replica).await;
            }
        }
        for stream in self.streams.values_mut() {
            self.number += 1;
            stream.beats.insert(self.number, Instant::now());
            let beat = Heartbeat {
                number: self.number,
                running: 0,
                draining: false,
            };
            let _ = stream
                .requests
                .send(request(work_request::Message::Heartbeat(beat)));
        }
        let done: Vec<_> = self
            .held
            .iter()
            .filter_map(|(task, held)| held.done.clone().map(|done| (task.0, done)))
            .collect();
        for (id, done) in done {
            self.report(id, done);
        }
        self.save_again();
    }

    async fn connect(&mut self, replica: &Replica) {
        let mut incarnation = [0; 16];
        incarnation[..8].copy_from_slice(&self.incarnation.to_be_bytes());
        let hello = Hello {
            worker_id: self.name.clone(),
            incarnation: Bytes::copy_from_slice(&incarnation),
            pool: "pool".to_owned(),
            slots: SLOTS,
            job_types: vec![TYPE.to_owned()],
            queues: Vec::new(),
            version: String::new(),
            held: self.all_held(),
            window: SLOTS / 2,
        };
        let (outbound, mut responses) = mpsc::channel(UNREAD);
        let sent = Instant::now();
        let (shared, groups) = (
            std::sync::Arc::clone(&replica.shared),
            replica.groups.clone(),
        );
        let opening = WorkStream::open(shared, groups, (TENANT, hello), outbound);
        let Some(stream) = self.while_it_opens(opening).await else {
            return;
        };
        let (requests, incoming) = mpsc::unbounded_channel();
        let incoming = tokio_stream::wrappers::UnboundedReceiverStream::new(incoming);
        let shutdown = replica.shutdown.clone();
        let served = tokio::spawn(stream.serve(incoming, shutdown));
        self.number += 1;
        let number = self.number;
        let (events, name) = (self.events.0.clone(), replica.name.clone());
        let link = std::sync::Arc::clone(&replica.link);
        tokio::spawn(async move {
            while let Some(Ok(message)) = responses.recv().await {
                // What a stopped or dead scheduler had to say is heard late or never.
                if !link.carries().await {
                    break;
                }
                let _ = events.send((name.clone(), number, Some(message)));
            }
            served.abort();
            let _ = events.send((name, number, None));
        });
        let beats = BTreeMap::new();
        self.streams.insert(
            replica.name.clone(),
            Stream {
                number,
                requests,
                permit: 0,
                demand: Demand::default(),
                sent,
                beats,
                link: std::sync::Arc::clone(&replica.link),
            },
        );
    }

    /// Waits for a scheduler's answer, but not for long, and keeps an eye on the leases meanwhile: if one
    /// lapses, what Hello said is true no more.
    async fn while_it_opens(
        &mut self,
        opening: impl Future<Output = Result<WorkStream, Status>>,
    ) -> Option<WorkStream> {
        let patience = Instant::now() + Duration::from_millis(500);
        let lapse = self.next_lapse().unwrap_or(patience);
        let opened = tokio::time::timeout_at(patience.min(lapse), opening).await;
        self.drop_what_lapsed();
        opened.ok()?.ok()
    }

    /// When the first lease by which something runs is over.
    fn next_lapse(&self) -> Option<Instant> {
        let running = self.held.values().filter(|held| held.done.is_none());
        running.map(|held| self.right(held)).min()
    }

    /// Until when it may run something.
    fn right(&self, held: &HeldTask) -> Instant {
        let lease = held.by.as_ref().and_then(|by| self.leases.get(by));
        lease.map_or(held.granted, |lease| held.granted.max(*lease))
    }

    fn all_held(&self) -> Vec<Held> {
        self.held
            .keys()
            .map(|(id, fence)| {
                let known = self.owners.get(&usize::from(id.lane().0));
                held(*id, *fence, known.map_or(0, |(epoch, _)| *epoch))
            })
            .collect()
    }

    fn take(&mut self, from: &str, message: WorkResponse) {
        match message.message {
            Some(work_response::Message::Welcome(welcome)) => {
                let sent = self.streams.get(from).map(|stream| stream.sent);
                self.see(from, &welcome.cluster_view.unwrap_or_default());
                self.extend(from, sent);
            }
            Some(work_response::Message::ClusterView(view)) => self.see(from, &view),
            Some(work_response::Message::Dispatch(dispatch)) => {
                dispatch
                    .tasks
                    .into_iter()
                    .for_each(|task| self.begin(from, &task));
            }
            Some(work_response::Message::HeartbeatAnswer(answer)) => {
                let stream = self.streams.get_mut(from);
                let sent = stream.and_then(|stream| stream.beats.remove(&answer.number));
                self.extend(from, sent);
            }
            Some(work_response::Message::Settlements(settlements)) => {
                for settled in settlements.settlements {
                    let id = ExecutionId::from_slice(&settled.execution_id).expect("an id");
                    let (name, verdict) = (&self.name, settled.verdict());
                    self.world
                        .history
                        .note(|| format!("{name}: {id} is settled by {from}: {verdict:?}"));
                    // A verdict of whoever has lost the lane may rest on rows that the database has lost.
                    let is_owners = self.owner(id).as_deref() == Some(from);
                    if is_owners && verdict != SettlementVerdict::NotOwner {
                        self.held.remove(&(id, settled.fence));
                    }
                }
            }
            Some(work_response::Message::CheckpointAnswers(answered)) => {
                self.take_answers(from, &answered.answers);
            }
            Some(work_response::Message::Revoke(revoke)) => self.revoke(from, revoke.held),
            Some(work_response::Message::Cancel(cancel)) => {
                for task in cancel.held {
                    let id = ExecutionId::from_slice(&task.execution_id).expect("an id");
                    if let Some(held) = self.held.get_mut(&(id, task.fence)) {
                        held.cancelled = true;
                        held.until = held.until.min(Instant::now() + Duration::from_millis(50));
                    }
                }
            }
            Some(work_response::Message::TakeBack(back)) => {
                for task in back.held {
                    let id = ExecutionId::from_slice(&task.execution_id).expect("an id");
                    self.take_back(from, (id, task.fence));
                }
            }
            Some(work_response::Message::Demand(demand)) => self.note_demand(from, demand),
            _ => {}
        }
    }

    fn note_demand(&mut self, from: &str, demand: Demand) {
        if let Some(stream) = self.streams.get_mut(from) {
            stream.demand = demand;
        }
    }

    /// What it has no right to it lets go of.
    fn revoke(&mut self, from: &str, revoked: Vec<Held>) {
        for task in revoked {
            let id = ExecutionId::from_slice(&task.execution_id).expect("an id");
            if self.owner(id).as_deref() != Some(from) {
                continue;
            }
            let held = self.held.get(&(id, task.fence));
            let origin = held.map(|held| held.origin.clone());
            // Whoever handed it out takes the worker for its holder still: the next Hello tells.
            if let Some(origin) = origin.filter(|origin| origin != from) {
                self.streams.remove(&origin);
            }
            self.give_up(id, task.fence);
        }
    }

    /// It is handed back, unless chance has it that it runs.
    fn take_back(&mut self, from: &str, task: (ExecutionId, u64)) {
        let (name, id) = (&self.name, task.0);
        self.world
            .history
            .note(|| format!("{name}: {id} is asked back by {from}"));
        if let Some(held) = self.held.get_mut(&task)
            && self.chance.random()
        {
            held.taken_back = true;
            held.until = Instant::now();
        }
    }

    /// What was sent to a scheduler at a time was answered: the lease counts from then.
    fn extend(&mut self, from: &str, sent: Option<Instant>) {
        if let Some(sent) = sent {
            let lease = self.leases.entry(from.to_owned()).or_insert(sent);
            *lease = (*lease).max(sent + WORKER_LEASE);
        }
    }

    /// The lanes may have changed hands: each new owner is told what is held.
    fn see(&mut self, from: &str, view: &ClusterView) {
        let before = self.owners.clone();
        for (lane, (owner, epoch)) in view.lane_owners.iter().zip(&view.lane_epochs).enumerate() {
            let owner = owner
                .checked_sub(1)
                .and_then(|place| view.schedulers.get(place as usize));
            let owner = owner.map(|scheduler| scheduler.scheduler_id.clone());
            let known = self.owners.entry(lane).or_default();
            // Views come from several schedulers: one that knows an older lease isn't believed, and of what
            // happens under one lease only its owner knows.
            let is_owners = [&known.1, &owner]
                .iter()
                .any(|owner| owner.as_deref() == Some(from));
            if *epoch > known.0 || (*epoch == known.0 && is_owners) {
                *known = (*epoch, owner);
            }
        }
        if before == self.owners {
            return;
        }
        let holding = Holding {
            held: self.all_held(),
        };
        for stream in self.streams.values() {
            let _ = stream
                .requests
                .send(request(work_request::Message::Holding(holding.clone())));
        }
        let owners: Vec<_> = self.held.keys().map(|(id, _)| self.owner(*id)).collect();
        for (held, owner) in self.held.values_mut().zip(owners) {
            // An owner that is gone extends nothing any more.
            if owner != held.by {
                let lease = held.by.as_ref().and_then(|by| self.leases.get(by));
                held.granted = lease.map_or(held.granted, |lease| held.granted.max(*lease));
                held.by = owner;
            }
        }
    }

    pub(super) fn owner(&self, id: ExecutionId) -> Option<String> {
        self.owners.get(&usize::from(id.lane().0))?.1.clone()
    }

    fn begin(&mut self, from: &str, task: &Task) {
        let id = ExecutionId::from_slice(&task.execution_id).expect("an id");
        // Another owner has been told by now what is held: it would be run without its knowing.
        if self.owner(id).is_some_and(|owner| owner != from) {
            self.world
                .history
                .note(|| format!("{}: refuses {id}: {from} isn't the owner", self.name));
            self.streams.remove(from);
            return;
        }
        let Some(granted) = self
            .leases
            .get(from)
            .copied()
            .filter(|lease| *lease > Instant::now())
        else {
            // It came too late: the next stream's Hello tells that it isn't held.
            self.streams.remove(from);
            return;
        };
        self.world
            .history
            .note(|| format!("{}: begins {id} (fence {})", self.name, task.fence));
        self.world.truth.begin(id, task.fence, &self.name);
        assert!(
            !(task.suspect && self.has_suspect_of_another(from)),
            "{id} and a suspect of another scheduler at a time"
        );
        self.note_begun_with(id, task);
        let run = match self.chance.random_range(0..20) {
            // Longer than it takes until somebody else has the lane and has waited for its workers.
            0 => self.chance.random_range(4_000..14_000),
            1 | 2 => self.chance.random_range(1_000..4_000),
            _ => self.chance.random_range(1..400),
        };
        let held = HeldTask {
            origin: from.to_owned(),
            by: self.owner(id),
            granted,
            until: Instant::now() + Duration::from_millis(run),
            done: None,
            saving: Saving::new(&mut self.chance),
            cancelled: false,
            taken_back: false,
            suspect: task.suspect,
        };
        self.held.insert((id, task.fence), held);
    }

    /// Whether it has a suspect that it has not done and that is counted by another scheduler.
    fn has_suspect_of_another(&self, scheduler: &str) -> bool {
        let mut suspects = self
            .held
            .values()
            .filter(|held| held.suspect && held.done.is_none());
        suspects.any(|held| held.by.as_deref().unwrap_or(&held.origin) != scheduler)
    }

    /// One scheduler after the other may hand out suspects: each as long as it has some, or as chance has it.
    fn pass_permit(&mut self) {
        if let Some(holder) = self.permitted.clone() {
            match self.streams.get_mut(&holder) {
                Some(stream) if stream.permit % 2 == 1 => {
                    if !stream.demand.suspects || self.chance.random_ratio(1, 8) {
                        stream.turn_permit();
                    }
                    return;
                }
                Some(stream) if stream.demand.permit != stream.permit => return,
                _ => self.permitted = None,
            }
        }
        let wanting = self.streams.iter().filter(|(_, it)| it.demand.suspects);
        let wanting: Vec<String> = wanting.map(|(name, _)| name.clone()).collect();
        let free = wanting
            .into_iter()
            .filter(|name| !self.has_suspect_of_another(name));
        let next = free
            .collect::<Vec<_>>()
            .into_iter()
            .choose(&mut self.chance);
        if let Some(stream) = next.as_ref().and_then(|next| self.streams.get_mut(next)) {
            stream.turn_permit();
            self.permitted = next;
        }
    }

    /// What it has no right to any more it stops, and says nothing of.
    fn drop_what_lapsed(&mut self) {
        let now = Instant::now();
        let lapsed = |held: &HeldTask| self.right(held) <= now;
        let lapsed = self
            .held
            .iter()
            .filter(|(_, held)| held.done.is_none() && lapsed(held));
        let lapsed: Vec<_> = lapsed.map(|(task, _)| *task).collect();
        if lapsed.is_empty() {
            return;
        }
        for (id, fence) in lapsed {
            self.world
                .history
                .note(|| format!("{}: lets {id} go, its lease is over", self.name));
            self.give_up(id, fence);
        }
        // Whoever was told of them takes the worker for their holder still: the next Hello tells.
        self.streams.clear();
    }

    /// Handlers don't run while their process is stopped.
    fn pause(&self, stopped: bool) {
        for ((id, fence), held) in &self.held {
            match stopped {
                _ if held.done.is_some() => {}
                true => self.world.truth.end(*id, *fence, &self.name),
                false => self.world.truth.resume(*id, *fence, &self.name),
            }
        }
    }

    fn give_up(&mut self, id: ExecutionId, fence: u64) {
        self.world
            .history
            .note(|| format!("{}: gives {id} up (fence {fence})", self.name));
        self.save_too_late(id, fence);
        self.held.remove(&(id, fence));
        self.world.truth.end(id, fence, &self.name);
    }

    fn finish(&mut self) {
        let now = Instant::now();
        let over = self
            .held
            .iter()
            .filter(|(_, held)| held.done.is_none() && held.until <= now);
        let over: Vec<_> = over
            .map(|(task, held)| (*task, held.cancelled, held.taken_back))
            .collect();
        for ((id, fence), cancelled, taken_back) in over {
            self.world.truth.end(id, fence, &self.name);
            let result = match taken_back {
                true => AttemptResult::Returned,
                false => self.result(cancelled),
            };
            let done = proto::v1::Result {
                execution_id: Bytes::copy_from_slice(id.as_bytes()),
                fence,
                result: result as i32,
                error: (result == AttemptResult::Error).then(|| AttemptError {
                    class: "sometimes".to_owned(),
                    message: "as chance has it".to_owned(),
                    permanent: self.chance.random_ratio(1, 5),
                }),
                put_off_us: self.chance.random_range(0..400_000),
                ..proto::v1::Result::default()
            };
            if let Some(held) = self.held.get_mut(&(id, fence)) {
                held.done = Some(done.clone());
            }
            self.world
                .history
                .note(|| format!("{}: ends {id} (fence {fence})", self.name));
            self.report(id, done);
        }
    }

    fn result(&mut self, cancelled: bool) -> AttemptResult {
        match self.chance.random_range(0..10) {
            _ if cancelled => AttemptResult::Cancelled,
            0 | 1 => AttemptResult::Error,
            2 => AttemptResult::Returned,
            3 => AttemptResult::Snoozed,
            _ => AttemptResult::Success,
        }
    }

    fn report(&self, id: ExecutionId, done: proto::v1::Result) {
        let results = Results {
            results: vec![done],
        };
        let owner = self.owner(id).and_then(|owner| self.streams.get(&owner));
        if let Some(stream) = owner {
            let _ = stream
                .requests
                .send(request(work_request::Message::Results(results)));
        }
    }

    fn die(self) {
        for (id, fence) in self.held.keys() {
            self.world.truth.end(*id, *fence, &self.name);
        }
    }

    fn leave(self) {
        for stream in self.streams.values() {
            let _ = stream
                .requests
                .send(request(work_request::Message::Goodbye(Goodbye {})));
        }
        self.die();
    }
}

fn held(id: ExecutionId, fence: u64, lane_epoch: u64) -> Held {
    Held {
        execution_id: Bytes::copy_from_slice(id.as_bytes()),
        fence,
        lane_epoch,
    }
}

pub(super) fn request(message: work_request::Message) -> Result<WorkRequest, Status> {
    Ok(WorkRequest {
        message: Some(message),
    })
}
