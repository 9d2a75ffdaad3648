//! The model of the database as a scheduler sees it: every statement goes over a link.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use domain::lane::{
    CheckpointMark, Class, DatabaseIdentity, DueMark, InboxMark, Lane, Row, Span, StoredPage,
    TimedEntry,
};
use domain::{Hour, LaneId, Micros, RetryPolicy};
use store::{
    ApiKey, Batch, Claimant, Error, ExecutionPlace, Head, InboxRead, KeepHouse, KeepLeases,
    KeptEntry, KnowNames, KnownKey, LaneLease, LaneOwner, LastEnd, Lead, Membership, PostWork,
    Posted, Queue, ReadExecutions, Renewal, Retention, Settled, Storage, StoredCheckpoint,
    StoredExecution, Table, Term, TermHolder, WindowMap, WriteLanes, WriteSnapshots,
};
use tokio::sync::oneshot;

use super::database::{Lease, Lock, Model, Posted as Entry, State, Tables};
use super::link::{Link, Luck, broken};
use super::transaction::{
    LOCK_TIMEOUT, Transaction, add_keys, deposed, end_who_blocks, stored_head,
};

/// How long a take-over waits before it ends who is in its way.
const PATIENCE: Duration = Duration::from_secs(1);
/// How old the plan of what is put into inboxes may be. In life that is a minute.
pub(super) const POSTED_WITHIN: Duration = Duration::from_secs(4);
/// The tenant, its queues and its type.
pub(super) const TENANT: i32 = 1;
pub(super) const TYPE: &str = "work";
pub(super) const QUEUES: [&str; 3] = ["a", "b", "c"];

/// One scheduler's database.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) model: Model,
    pub(super) link: Arc<Link>,
}

impl Connection {
    /// A statement that reads.
    pub(super) async fn read<T>(&self, read: impl FnOnce(&mut State) -> T) -> Result<T, Error> {
        self.link.cross().await?;
        let answer = read(&mut self.model.state());
        self.link.cross().await?;
        Ok(answer)
    }

    /// A statement that changes something and commits at once.
    pub(super) async fn change<T>(
        &self,
        change: impl FnOnce(&mut State, Micros) -> T,
    ) -> Result<T, Error> {
        let luck = self.link.luck();
        self.link.cross().await?;
        if luck == Luck::Lost {
            return Err(broken());
        }
        let now = self.model.now();
        let answer = change(&mut self.model.state(), now);
        self.link.cross().await?;
        match luck {
            Luck::Good => Ok(answer),
            _ => Err(broken()),
        }
    }

    /// A transaction that goes on in the database whatever becomes of who asked for it.
    async fn transact<F, Fut>(&self, luck: Luck, patience: Duration, run: F) -> Result<(), Error>
    where
        F: FnOnce(Model, Duration) -> Fut,
        Fut: Future<Output = Result<Finish, Error>> + Send + 'static,
    {
        self.link.cross().await?;
        if luck == Luck::Lost {
            return Err(broken());
        }
        let (done, answer) = oneshot::channel();
        let (work, delay) = (run(self.model.clone(), patience), self.link.delay());
        tokio::spawn(async move {
            let done_with = match work.await {
                Err(error) => Err(error),
                Ok(finish) => {
                    tokio::time::sleep(delay).await;
                    match luck {
                        Luck::Hangs(open, commits) => {
                            tokio::time::sleep(open).await;
                            finish(commits)
                        }
                        _ => finish(true),
                    }
                }
            };
            let _ = done.send(done_with);
        });
        if luck != Luck::Good {
            tokio::time::sleep(Duration::from_millis(300)).await;
            return Err(broken());
        }
        let done = answer.await.unwrap_or(Err(broken()));
        self.link.cross().await?;
        done
    }
}

/// Commits a transaction that has claimed what it needs, or rolls it back.
type Finish = Box<dyn FnOnce(bool) -> Result<(), Error> + Send>;

/// Runs a batch up to its commit.
async fn claim_batch(model: Model, patience: Duration, batch: Batch) -> Result<Finish, Error> {
    let transaction = Transaction::begin(&model, patience);
    let xid = transaction.xid;
    if let Err(error) = transaction.claim(&batch.rows, &batch.keys).await {
        transaction.roll_back();
        return Err(error);
    }
    let lanes: Vec<(LaneId, u64)> = batch.rows.iter().map(|r| (r.lane, r.link.n)).collect();
    model
        .history
        .note(|| format!("db: transaction {xid} holds {lanes:?}"));
    let model = model.clone();
    Ok(Box::new(move |commits| {
        let transaction = Transaction::resume(&model, xid);
        model
            .history
            .note(|| format!("db: transaction {xid} ends, commits: {commits}"));
        match commits {
            true => transaction.commit(&batch),
            false => {
                transaction.roll_back();
                Err(broken())
            }
        }
    }))
}

#[async_trait]
impl WriteLanes for Connection {
    async fn commit(&mut self, _: &WindowMap, batch: &Batch) -> Result<(), Error> {
        let luck = self.link.luck();
        self.model.history.note(|| {
            let rows: Vec<_> = batch.rows.iter().map(|r| (r.lane.0, r.link.n)).collect();
            format!("writer: commits {rows:?}, luck: {luck:?}")
        });
        let batch = batch.clone();
        let run = |model, patience| claim_batch(model, patience, batch);
        self.transact(luck, LOCK_TIMEOUT, run).await
    }

    async fn settle(&mut self, windows: &WindowMap, blank: &Row) -> Result<Settled, Error> {
        let batch = Batch {
            rows: vec![blank.clone()],
            ..Batch::default()
        };
        match self.commit(windows, &batch).await {
            Ok(()) => return Ok(Settled::Never),
            Err(Error::Deposed { .. }) => {}
            Err(error) => return Err(error),
        }
        let place = (blank.lane, blank.link.n);
        let there = self.read(|state| state.tables.chain.get(&place).map(|row| row.link.batch));
        there
            .await?
            .map(Settled::There)
            .ok_or_else(|| deposed("the row before is gone"))
    }

    async fn known_keys(&mut self, keys: &[[u8; 16]]) -> Result<Vec<KnownKey>, Error> {
        self.read(|state| known(&state.tables, keys)).await
    }

    async fn due_entries(
        &mut self,
        _: &WindowMap,
        lane: LaneId,
        (after, upto): (DueMark, DueMark),
        limit: usize,
    ) -> Result<Vec<TimedEntry>, Error> {
        let range = (
            std::ops::Bound::Excluded((lane, after)),
            std::ops::Bound::Included((lane, upto)),
        );
        let entries = |state: &mut State| {
            let entries = state.tables.due.range(range).map(|(_, entry)| *entry);
            entries.take(limit).collect()
        };
        self.read(entries).await
    }

    async fn kept_due(&mut self, _: LaneId, _: Hour, _: usize) -> Result<Vec<KeptEntry>, Error> {
        self.read(|_| Vec::new()).await
    }

    async fn last_ends(
        &mut self,
        _: &WindowMap,
        places: &[ExecutionPlace],
    ) -> Result<BTreeMap<(LaneId, u64), LastEnd>, Error> {
        let ends = |state: &mut State| {
            let ends = places.iter().filter_map(|place| {
                let end = super::truth::last_end(&state.tables, *place)?;
                Some(((place.lane, place.seq), end))
            });
            ends.collect()
        };
        self.read(ends).await
    }

    async fn read_inbox(
        &mut self,
        _: &WindowMap,
        lanes: &[(LaneId, InboxMark)],
        (_, limit): (Micros, usize),
    ) -> Result<Vec<InboxRead>, Error> {
        let read = |state: &mut State| {
            let now = Snapshot::of(state);
            let reads = lanes.iter().filter_map(|(lane, mark)| {
                read_inbox(&state.tables.inbox, *lane, mark, (&now, limit))
            });
            reads.collect()
        };
        self.read(read).await
    }

    async fn take_over(
        &mut self,
        lease: &LaneLease,
        identity: DatabaseIdentity,
        now: Micros,
    ) -> Result<Lane, Error> {
        for _ in 0..5 {
            let skip = |state: &mut State, _| {
                state.next_foreign += 1 << 20;
                state.tables.replay(lease.lane)
            };
            let lane = self.change(skip).await?;
            let mut lane = lane.ok_or_else(|| deposed("no chain"))?;
            let batch = self.link.delay().as_nanos() ^ u128::from(lane.link().n) << 32;
            let rows = lane.take_over(lease.epoch, identity, now, batch);
            let (lease, luck) = (*lease, self.link.luck());
            let both = rows.to_vec();
            let run = |model, _| claim_take_over(model, lease, both);
            match self.transact(luck, Duration::from_secs(15), run).await {
                Ok(()) => {
                    rows.iter()
                        .for_each(|row| lane.apply(row).expect("a take-over applies"));
                    return Ok(lane);
                }
                Err(Error::Deposed { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Err(deposed("the old owner keeps writing"))
    }
}

/// The two rows of a take-over, under a lease that holds: whoever is in their way is ended.
async fn claim_take_over(model: Model, lease: LaneLease, rows: Vec<Row>) -> Result<Finish, Error> {
    let transaction = Transaction::begin(&model, Duration::from_secs(15));
    let xid = transaction.xid;
    let holds = {
        let now = model.now();
        let mut state = model.state();
        let there = state.tables.leases.get(&lease.lane).cloned();
        let holds = there.is_some_and(|there| {
            let own = (there.epoch, there.incarnation) == (lease.epoch, lease.incarnation);
            own && there.expires > now
        });
        if holds {
            state.locks.insert(lease_lock(lease.lane), xid);
        }
        holds
    };
    if !holds {
        transaction.roll_back();
        let (lane, epoch) = (lease.lane.0, lease.epoch);
        return Err(Error::LeaseOver { lane, epoch });
    }
    let claimed = {
        let claiming = transaction.claim(&rows, &[]);
        tokio::pin!(claiming);
        loop {
            match tokio::time::timeout(PATIENCE, &mut claiming).await {
                Ok(claimed) => break claimed,
                Err(_) => end_who_blocks(&model, lease.lane, xid),
            }
        }
    };
    if let Err(error) = claimed {
        transaction.roll_back();
        return Err(error);
    }
    let model = model.clone();
    Ok(Box::new(move |commits| {
        let transaction = Transaction::resume(&model, xid);
        model
            .history
            .note(|| format!("db: lane {} is taken over, commits: {commits}", lease.lane));
        let batch = Batch {
            rows,
            ..Batch::default()
        };
        match commits {
            true => transaction.commit(&batch),
            false => {
                transaction.roll_back();
                Err(broken())
            }
        }
    }))
}

/// What a take-over holds of a lease: nobody takes it meanwhile.
fn lease_lock(lane: LaneId) -> Lock {
    Lock::Row(lane, u64::MAX)
}

fn known(tables: &Tables, keys: &[[u8; 16]]) -> Vec<KnownKey> {
    let known = keys.iter().filter_map(|key| {
        let (fingerprint, id) = *tables.keys.get(key)?;
        let key = *key;
        Some(KnownKey {
            key,
            fingerprint,
            id,
        })
    });
    known.collect()
}

/// Which transactions a statement sees.
struct Snapshot {
    next: u64,
    open: Vec<u64>,
}

impl Snapshot {
    fn of(state: &State) -> Self {
        Self {
            next: state.next_xid,
            open: state.open.iter().copied().collect(),
        }
    }

    fn parse(text: &str) -> Self {
        let (next, open) = text.split_once(':').unwrap_or(("0", ""));
        Self {
            next: next.parse().unwrap_or(0),
            open: open.split(',').filter_map(|xid| xid.parse().ok()).collect(),
        }
    }

    fn text(&self) -> String {
        let open: Vec<String> = self.open.iter().map(u64::to_string).collect();
        format!("{}:{}", self.next, open.join(","))
    }

    fn sees(&self, xid: u64) -> bool {
        xid < self.next && !self.open.contains(&xid)
    }
}

fn read_inbox(
    inbox: &[Entry],
    lane: LaneId,
    mark: &InboxMark,
    (now, limit): (&Snapshot, usize),
) -> Option<InboxRead> {
    let done = Snapshot::parse(&mark.done);
    let (upto, after) = match &mark.page {
        Some((upto, last)) => (Snapshot::parse(upto), *last),
        None => (Snapshot::parse(&now.text()), 0),
    };
    let new = |posted: &&Entry| {
        let seen = upto.sees(posted.xid) && !done.sees(posted.xid);
        posted.entry.lane == lane && seen && posted.ord > after
    };
    let mut new: Vec<&Entry> = inbox.iter().filter(new).collect();
    new.sort_by_key(|posted| posted.ord);
    new.truncate(limit);
    if new.is_empty() && mark.page.is_none() {
        return None;
    }
    let more = new.len() >= limit;
    let last = new.last().map_or(0, |posted| posted.ord);
    Some(InboxRead {
        lane,
        entries: new.iter().map(|posted| posted.entry).collect(),
        mark: InboxMark {
            done: if more { mark.done.clone() } else { upto.text() },
            page: more.then(|| (upto.text(), last)),
        },
    })
}

#[async_trait]
impl PostWork for Connection {
    async fn numbers(&mut self, count: usize) -> Result<Vec<u64>, Error> {
        let take = |state: &mut State, _| {
            let first = state.next_foreign;
            state.next_foreign += count as u64;
            (first..state.next_foreign).collect()
        };
        self.change(take).await
    }

    async fn known_keys(&mut self, keys: &[[u8; 16]]) -> Result<Vec<KnownKey>, Error> {
        self.read(|state| known(&state.tables, keys)).await
    }

    async fn post(&mut self, _: &WindowMap, posted: &[Posted], at: Micros) -> Result<(), Error> {
        let (posted, luck) = (posted.to_vec(), self.link.luck());
        let run = |model, patience| claim_post(model, patience, (posted, at));
        self.transact(luck, Duration::from_millis(500), run).await
    }
}

async fn claim_post(
    model: Model,
    patience: Duration,
    (posted, at): (Vec<Posted>, Micros),
) -> Result<Finish, Error> {
    let late = model.now().0.abs_diff(at.0);
    if u128::from(late) > POSTED_WITHIN.as_micros() {
        return Err(untimely());
    }
    let transaction = Transaction::begin(&model, patience);
    let xid = transaction.xid;
    let keys: Vec<_> = posted
        .iter()
        .filter_map(|posted| posted.key.clone())
        .collect();
    if let Err(error) = transaction.claim(&[], &keys).await {
        transaction.roll_back();
        return Err(error);
    }
    let model = model.clone();
    Ok(Box::new(move |commits| {
        if !commits {
            model.end(xid);
            return Err(broken());
        }
        let mut state = model.state();
        if !state.open.contains(&xid) {
            return Err(broken());
        }
        posted.iter().for_each(|one| state.post(one, (xid, at)));
        add_keys(&mut state, &keys);
        drop(state);
        model.end(xid);
        Ok(())
    }))
}

fn untimely() -> Error {
    Error::Untimely {
        statement: "model",
        detail: "planned long ago".to_owned(),
    }
}

impl State {
    /// Adds what somebody put into an inbox.
    fn post(&mut self, one: &Posted, (xid, at): (u64, Micros)) {
        let (new, head) = (&one.execution, &one.execution.head);
        let (lane, seq, home) = (new.lane, new.seq, new.home);
        let class = class_of(head);
        let due = head.due;
        let entry = store::InboxEntry {
            lane,
            seq,
            class,
            home,
            due,
        };
        let ord = self.next_ord;
        self.next_ord += 1;
        let windows = &mut self.tables.windows;
        assert!(
            windows.has(Table::Inbox, at.hour()),
            "posted into a window that is gone"
        );
        assert!(
            windows.has(Table::Execution, home),
            "posted into a window that is gone"
        );
        self.tables.inbox.push(Entry {
            xid,
            ord,
            at,
            entry,
        });
        let row = (home, stored_head(head, at));
        let before = self.tables.executions.insert((lane, seq), row);
        assert!(
            before.is_none(),
            "execution {seq} of lane {lane} comes twice"
        );
    }
}

#[async_trait]
impl KeepLeases for Connection {
    /// All have the same token here.
    async fn admit(&mut self, _: &Claimant, _: bool) -> Result<(), Error> {
        Ok(())
    }

    async fn renew(&mut self, claimant: &Claimant) -> Result<Renewal, Error> {
        let renew = |state: &mut State, now: Micros| {
            let tables = &mut state.tables;
            let seen = (claimant.address.clone(), now);
            let last = tables.schedulers.insert(claimant.id.clone(), seen);
            let last = last.map(|(_, seen)| seen);
            let mut leases = Vec::new();
            for (lane, lease) in &mut tables.leases {
                if lease.incarnation == claimant.incarnation && lease.expires > now {
                    lease.expires = now.plus(claimant.lease);
                    leases.push(held(*lane, lease));
                }
            }
            let identity = tables.identity;
            Renewal {
                leases,
                now,
                identity,
                last,
            }
        };
        self.change(renew).await
    }

    async fn take(&mut self, claimant: &Claimant, most: usize) -> Result<Vec<LaneLease>, Error> {
        let take = |state: &mut State, now: Micros| {
            let locks = state.locks.clone();
            let free = |(lane, lease): &(&LaneId, &mut Lease)| {
                lease.expires < now && !locks.contains_key(&lease_lock(**lane))
            };
            let free = state.tables.leases.iter_mut().filter(free).take(most);
            let taken = free.map(|(lane, lease)| {
                *lease = Lease {
                    epoch: (lease.epoch + 1).max(now.0 / 1_000),
                    incarnation: claimant.incarnation,
                    holder: claimant.id.clone(),
                    expires: now.plus(claimant.lease),
                };
                held(*lane, lease)
            });
            taken.collect()
        };
        self.change(take).await
    }

    async fn release(&mut self, claimant: &Claimant, lanes: &[LaneId]) -> Result<(), Error> {
        self.change(|state: &mut State, _| state.tables.release(claimant, lanes))
            .await
    }

    async fn leave(&mut self, claimant: &Claimant, lanes: &[LaneId]) -> Result<(), Error> {
        let leave = |state: &mut State, _| {
            state.tables.schedulers.remove(&claimant.id);
            state.tables.release(claimant, lanes);
        };
        self.change(leave).await
    }

    async fn membership(&mut self, lease: Duration) -> Result<Membership, Error> {
        let now = self.model.now();
        let look = |state: &mut State| {
            let schedulers = state.tables.schedulers.iter();
            let alive = schedulers.filter(|(_, (_, seen))| seen.plus(lease) > now);
            let schedulers = alive.map(|(id, (address, _))| (id.clone(), address.clone()));
            let lanes = state.tables.leases.iter().map(|(lane, lease)| LaneOwner {
                lane: *lane,
                holder: (lease.expires > now).then(|| lease.holder.clone()),
                incarnation: lease.incarnation,
                epoch: lease.epoch,
            });
            Membership {
                schedulers: schedulers.collect(),
                lanes: lanes.collect(),
            }
        };
        self.read(look).await
    }
}

fn held(lane: LaneId, lease: &Lease) -> LaneLease {
    LaneLease {
        lane,
        epoch: lease.epoch,
        incarnation: lease.incarnation,
    }
}

/// A candidate for the lead.
struct Candidate {
    connection: Connection,
    holder: TermHolder,
}

#[async_trait]
impl Lead for Candidate {
    async fn campaign(&mut self) -> Result<Option<Term>, Error> {
        let holder = self.holder.clone();
        let win = |state: &mut State, now: Micros| {
            let lease = &mut state.tables.leader;
            if lease.expires >= now {
                return None;
            }
            *lease = Lease {
                epoch: lease.epoch + 1,
                incarnation: holder.incarnation,
                holder: holder.label,
                expires: now.plus(holder.lease),
            };
            Some(Term::new(lease.epoch, lease.incarnation, now))
        };
        self.connection.change(win).await
    }

    async fn renew(&mut self, term: &Term) -> Result<Term, Error> {
        let (epoch, holder) = (term.epoch(), self.holder.clone());
        let renew = |state: &mut State, now: Micros| {
            let lease = &mut state.tables.leader;
            if lease.epoch != epoch || lease.expires <= now {
                return Err(Error::TermOver { epoch });
            }
            lease.expires = now.plus(holder.lease);
            Ok(Term::new(epoch, lease.incarnation, now))
        };
        self.connection.change(renew).await?
    }

    async fn resign(&mut self, term: &Term) -> Result<(), Error> {
        let epoch = term.epoch();
        let resign = |state: &mut State, _| {
            if state.tables.leader.epoch == epoch {
                state.tables.leader.expires = Micros(i64::MIN);
            }
        };
        self.connection.change(resign).await
    }

    async fn make_lanes(&mut self, term: &Term, lanes: u16) -> Result<(), Error> {
        let at = term.now();
        let make = |state: &mut State, _| {
            for lane in (0..lanes).map(LaneId) {
                if state.tables.leases.contains_key(&lane) {
                    continue;
                }
                let free = Lease {
                    epoch: 0,
                    incarnation: uuid::Uuid::nil(),
                    holder: String::new(),
                    expires: Micros(i64::MIN),
                };
                state.tables.leases.insert(lane, free);
                state.tables.add_row(&Row::genesis(lane, at));
            }
        };
        self.connection.change(make).await
    }

    async fn make_windows(&mut self, _: &Term, _: i32, _: i32) -> Result<usize, Error> {
        Ok(0)
    }

    async fn turn_windows(&mut self, term: &Term, ripe: &[(Table, Hour)]) -> Result<u64, Error> {
        let epoch = term.epoch();
        let turn = |state: &mut State, now: Micros| {
            if state.tables.leader.epoch != epoch || state.tables.leader.expires <= now {
                return Err(Error::TermOver { epoch });
            }
            let xid = state.next_xid;
            state.next_xid += 1;
            Ok(state.turn_windows(ripe, (xid, now)))
        };
        self.connection.change(turn).await?
    }

    async fn clear_kept(&mut self, _: &Term, _: Retention) -> Result<u64, Error> {
        Ok(0)
    }
}

#[async_trait]
impl KnowNames for Connection {
    async fn tenant_name(&self, _: i32) -> Result<Option<String>, Error> {
        Ok(Some("tenant".to_owned()))
    }

    async fn queue_by_name(&self, _: i32, name: &str) -> Result<Option<Queue>, Error> {
        let place = QUEUES.iter().position(|queue| *queue == name);
        Ok(place
            .and_then(|place| i32::try_from(place + 1).ok())
            .map(queue))
    }

    async fn queues_of(&self, _: i32) -> Result<Vec<Queue>, Error> {
        Ok((1..=3).map(queue).collect())
    }

    async fn queue_by_number(&self, number: i32) -> Result<Option<Queue>, Error> {
        Ok(Some(queue(number)))
    }

    async fn announce_types(&self, _: i32, _: &[String]) -> Result<(), Error> {
        self.read(|_| ()).await
    }

    async fn type_number(&self, _: i32, name: &str) -> Result<Option<i32>, Error> {
        Ok((name == TYPE).then_some(1))
    }

    async fn type_numbers(&self, _: i32, name: &str) -> Result<Vec<i32>, Error> {
        Ok((name == TYPE).then_some(1).into_iter().collect())
    }

    async fn type_name(&self, _: i32) -> Result<Option<String>, Error> {
        Ok(Some(TYPE.to_owned()))
    }

    async fn policy_number(&self, policy: &RetryPolicy) -> Result<i32, Error> {
        Ok(i32::from(policy.max_attempts))
    }

    async fn policy(&self, number: i32) -> Result<Option<RetryPolicy>, Error> {
        Ok(Some(super::client::policy(
            u16::try_from(number).unwrap_or(1),
        )))
    }

    async fn key(&self, _: &str) -> Result<Option<ApiKey>, Error> {
        Ok(None)
    }
}

fn queue(number: i32) -> Queue {
    let name = usize::try_from(number - 1)
        .ok()
        .and_then(|place| QUEUES.get(place));
    Queue {
        number,
        tenant: TENANT,
        name: name.copied().unwrap_or("a").to_owned(),
        lanes: vec![LaneId(0)],
    }
}

#[async_trait]
impl ReadExecutions for Connection {
    async fn is_tabled(
        &self,
        _: &WindowMap,
        _: i32,
        lane: LaneId,
        mark: DueMark,
    ) -> Result<bool, Error> {
        self.read(|state| state.tables.due.contains_key(&(lane, mark)))
            .await
    }

    async fn heads(
        &self,
        _: &WindowMap,
        lane: LaneId,
        _: Hour,
        (seqs, _): (&[u64], u64),
    ) -> Result<Vec<(u64, Head)>, Error> {
        let read = |state: &mut State| {
            let heads = seqs.iter().filter_map(|seq| {
                let (_, head) = state.tables.executions.get(&(lane, *seq))?;
                Some((*seq, Head::clone(head)))
            });
            heads.collect()
        };
        self.read(read).await
    }

    async fn last_checkpoint(
        &self,
        _: &WindowMap,
        _: i32,
        _: ExecutionPlace,
    ) -> Result<Option<StoredCheckpoint>, Error> {
        Ok(None)
    }

    async fn states(
        &self,
        _: &WindowMap,
        lane: LaneId,
        _: Hour,
        (marks, _): (&[(u64, CheckpointMark)], u64),
    ) -> Result<Vec<(u64, Bytes)>, Error> {
        let read = |state: &mut State| {
            let states = marks.iter().filter_map(|(seq, mark)| {
                let saved = state.tables.checkpoints.get(&(lane, *seq, *mark))?;
                Some((*seq, saved.state.clone()))
            });
            states.collect()
        };
        self.read(read).await
    }

    async fn stored(
        &self,
        _: &WindowMap,
        lane: LaneId,
        (class, span): (Class, Span),
        rows: usize,
    ) -> Result<StoredPage, Error> {
        self.read(|state| stored(&state.tables, lane, (class, span), rows))
            .await
    }

    async fn reopened(
        &self,
        _: &WindowMap,
        _: LaneId,
        _: Hour,
        _: &[u64],
    ) -> Result<Vec<(u64, Micros)>, Error> {
        self.read(|_| Vec::new()).await
    }

    async fn execution(
        &self,
        _: &WindowMap,
        _: i32,
        place: ExecutionPlace,
    ) -> Result<Option<StoredExecution>, Error> {
        self.read(|state| super::truth::stored(&state.tables, place.lane, place.seq))
            .await
    }
}

fn stored(tables: &Tables, lane: LaneId, (class, span): (Class, Span), rows: usize) -> StoredPage {
    let looked_at = tables.executions.range((lane, span.from)..=(lane, span.to));
    let looked_at: Vec<_> = looked_at.take(rows).collect();
    let all = looked_at.len() < rows;
    let last = looked_at.last().map_or(span.to, |((_, seq), _)| *seq);
    let own = |head: &Head| class_of(head) == class && head.due.is_none();
    let found = looked_at.into_iter().filter(|(_, (_, head))| own(head));
    StoredPage {
        from: span.from,
        upto: if all { span.to } else { last },
        found: found
            .map(|((_, seq), (_, head))| (*seq, head.accepted))
            .collect(),
    }
}

fn class_of(head: &Head) -> Class {
    Class {
        tenant: head.tenant,
        queue: head.queue,
        priority: head.priority,
        job_type: head.job_type,
        suspect: false,
    }
}

#[async_trait]
impl WriteSnapshots for Connection {
    async fn write_snapshot(
        &self,
        lane: LaneId,
        row: domain::lane::Link,
        body: &[u8],
    ) -> Result<bool, Error> {
        let write = |state: &mut State, _| {
            let there = state.tables.chain.get(&(lane, row.n));
            let there = there.is_some_and(|there| there.link == row);
            let snapshots = &mut state.tables.snapshots;
            if there && snapshots.get(&lane).is_none_or(|(n, _)| *n < row.n) {
                snapshots.insert(lane, (row.n, body.to_vec()));
            }
            there
        };
        self.change(write).await
    }
}

#[async_trait]
impl Storage for Connection {
    fn writer(&self) -> Box<dyn WriteLanes> {
        Box::new(self.clone())
    }

    fn poster(&self) -> Box<dyn PostWork> {
        Box::new(self.clone())
    }

    fn leases(&self) -> Box<dyn KeepLeases> {
        Box::new(self.clone())
    }

    fn election(&self, holder: TermHolder) -> Box<dyn Lead> {
        let connection = self.clone();
        Box::new(Candidate { connection, holder })
    }

    fn housekeeper(&self) -> Box<dyn KeepHouse> {
        Box::new(self.clone())
    }

    async fn windows(&self) -> Result<WindowMap, Error> {
        self.read(|state| state.tables.windows.map()).await
    }

    async fn ping(&self) -> Result<Duration, Error> {
        Ok(Duration::ZERO)
    }

    fn pool_use(&self) -> (u32, u32, u32) {
        (0, 0, 0)
    }
}
