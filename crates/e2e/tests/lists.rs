//! Lists: every execution in its state, once, whoever owns its lane.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow, ensure};
use cluster::{ExtraEnv, Options, Queue, Service, Tenant};
use e2e::{Rig, retry_policy, submission};
use proto::v1::ExecutionState::{
    Cancelled, DeadLettered, Failed, Queued, Retrying, Running, Scheduled, Succeeded,
};
use proto::v1::{ExecutionState, ExecutionSummary, ListExecutionsRequest, Submission};
use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};
use tonic::Code;
use watchwork::client::Client;

const HOUR: Duration = Duration::from_secs(3_600);
const SOON: Duration = Duration::from_secs(20);
/// Of all workers together.
const SLOTS: usize = 4;

/// Two clusters at a time would only slow each other down.
static ONE_AFTER_THE_OTHER: Mutex<()> = Mutex::const_new(());

#[tokio::test(flavor = "multi_thread")]
async fn every_execution_is_listed_once_in_its_state_page_by_page() -> Result<()> {
    let _turn = ONE_AFTER_THE_OTHER.lock().await;
    let rig = Rig::start(few_slots).await?;
    let work = Work::hand_in(&rig).await?;
    for (state, ids) in &work.by_state {
        let listed = settled(&rig, &[*state], ids).await?;
        ensure!(
            listed.iter().all(|one| one.state() == *state),
            "{listed:#?}"
        );
        pages_make_up_the_list(&rig, &filter(&[*state]), &listed).await?;
        for one in &listed {
            says_what_get_says(&rig, one).await?;
        }
    }

    let combinations: [&[ExecutionState]; 5] = [
        &[],
        &[Failed, DeadLettered, Cancelled],
        &[Scheduled, Queued, Running, Retrying],
        &[Succeeded, Failed],
        &[Running, Scheduled, Cancelled],
    ];
    for states in combinations {
        let listed = all(&rig.client, filter(states), 500).await?;
        ensure!(ids(&listed) == work.of(states), "{states:?}: {listed:#?}");
        in_order(states, &listed)?;
        pages_make_up_the_list(&rig, &filter(states), &listed).await?;
    }
    work.cancel_what_is_open(&rig).await?;
    rig.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_types_and_tenants_are_told_apart_and_bad_tokens_refused() -> Result<()> {
    let _turn = ONE_AFTER_THE_OTHER.lock().await;
    let rig = Rig::start(|options| {
        few_slots(options);
        options.tenants.push(Tenant {
            name: "other".to_owned(),
            queues: vec![Queue::new("default", 4), Queue::new("theirs", 1)],
        });
    })
    .await?;
    let address = rig.cluster.gateway_url().context("a gateway")?;
    let key = rig.cluster.key_of("other").context("a key")?;
    let other = Client::new(&address, key).map_err(|why| anyhow!(why))?;
    let ours = rig.client.submit(submission("noop", &json!({}))).await?;
    let later = rig.client.submit(due_in(HOUR, "checks")).await?;
    let theirs = other.submit(due_in(HOUR, "theirs")).await?;
    rig.client.wait_for(&ours).await?;

    let of = |ids: &[&String]| ids.iter().map(|id| (*id).clone()).collect::<BTreeSet<_>>();
    for states in [&[][..], &[Scheduled, Queued]] {
        let listed = all(&other, filter(states), 50).await?;
        ensure!(ids(&listed) == of(&[&theirs]), "{listed:#?}");
    }
    let of_queue = |queue: &str| ListExecutionsRequest {
        queue: queue.to_owned(),
        ..filter(&[])
    };
    let listed = all(&rig.client, of_queue("checks"), 50).await?;
    ensure!(ids(&listed) == of(&[&later]), "{listed:#?}");
    ensure!(listed[0].queue == "checks" && listed[0].labels["team"] == "night");
    ensure!(listed[0].correlation_id == "order-7", "{listed:#?}");
    let refused = rig.client.list(of_queue("theirs")).await;
    ensure!(refused.expect_err("it is another's").code() == Code::NotFound);

    let of_type = |job_type: &str, states| ListExecutionsRequest {
        job_type: job_type.to_owned(),
        ..filter(states)
    };
    for (states, found) in [(&[][..], &ours), (&[Succeeded], &ours)] {
        let listed = all(&rig.client, of_type("noop", states), 50).await?;
        ensure!(ids(&listed) == of(&[found]), "{listed:#?}");
    }
    let listed = all(&rig.client, of_type("sleep", &[Scheduled]), 50).await?;
    ensure!(ids(&listed) == of(&[&later]), "{listed:#?}");
    ensure!(
        all(&rig.client, of_type("noop", &[Scheduled]), 50)
            .await?
            .is_empty()
    );
    ensure!(
        all(&rig.client, of_type("unheard-of", &[]), 50)
            .await?
            .is_empty()
    );

    tokens_of_other_lists_are_refused(&rig).await?;
    rig.stop().await
}

async fn tokens_of_other_lists_are_refused(rig: &Rig) -> Result<()> {
    let first = ListExecutionsRequest {
        page_size: 1,
        ..filter(&[])
    };
    let token = rig.client.list(first).await?.next_page_token;
    for page_token in [token, "nonsense".to_owned()] {
        let request = ListExecutionsRequest {
            page_token,
            ..filter(&[Failed])
        };
        let refused = rig.client.list(request).await;
        ensure!(refused.expect_err("no token of this list").code() == Code::InvalidArgument);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn while_lanes_change_hands_a_list_is_whole_or_unavailable() -> Result<()> {
    let _turn = ONE_AFTER_THE_OTHER.lock().await;
    let rig = Rig::start(few_slots).await?;
    let sleepers = vec![submission("sleep", &json!({"ms": 120_000})); 24];
    let taken = rig.client.submit_batch(sleepers).await?;
    let open: BTreeSet<String> = taken.into_iter().map(|id| id.expect("taken")).collect();
    let states = [Queued, Running];
    settled(&rig, &states, &open).await?;

    rig.cluster.kill("scheduler-1")?;
    let (begin, mut unavailable, mut whole) = (Instant::now(), 0, 0);
    while whole < 20 {
        for states in [&states[..], &[]] {
            match all(&rig.client, filter(states), 500).await {
                Ok(listed) => {
                    ensure!(ids(&listed) == open, "{states:?}: {listed:#?}");
                    whole += 1;
                }
                Err(status) if status.code() == Code::Unavailable => unavailable += 1,
                Err(status) => return Err(status.into()),
            }
        }
        ensure!(begin.elapsed() < SOON, "{unavailable} times, and no end");
        sleep(Duration::from_millis(50)).await;
    }
    ensure!(unavailable > 0, "half the lanes had no owner for seconds");
    for id in &open {
        rig.client.cancel(id).await?;
    }
    rig.stop().await
}

/// Due entries are read one second ahead.
fn few_slots(options: &mut Options) {
    options.worker_slots = SLOTS as u32 / 2;
    options.env.push(ExtraEnv {
        service: Service::Scheduler,
        name: "DUE_HORIZON".to_owned(),
        value: "1s".to_owned(),
    });
}

fn due_in(wait: Duration, queue: &str) -> Submission {
    Submission {
        due_at: Some((SystemTime::now() + wait).into()),
        queue: queue.to_owned(),
        labels: [("team".to_owned(), "night".to_owned())].into(),
        correlation_id: "order-7".to_owned(),
        ..submission("sleep", &json!({"ms": 1}))
    }
}

/// Executions in every state.
struct Work {
    by_state: Vec<(ExecutionState, BTreeSet<String>)>,
}

impl Work {
    async fn hand_in(rig: &Rig) -> Result<Self> {
        let noop = submission("noop", &json!({}));
        let succeeded = taken(rig, vec![noop; 7]).await?;
        let permanent = submission("fail", &json!({"permanent": true}));
        let failed = taken(rig, vec![permanent; 5]).await?;
        let failing = |attempts, backoff| Submission {
            retry_policy: Some(retry_policy(attempts, backoff)),
            ..submission("fail", &json!({"times": 1_000}))
        };
        let dead = taken(rig, vec![failing(2, Duration::from_millis(20)); 3]).await?;
        let retrying = taken(rig, vec![failing(5, HOUR); 3]).await?;
        for id in succeeded.iter().chain(&failed).chain(&dead) {
            rig.client.wait_for(id).await?;
        }
        settled(rig, &[Retrying], &retrying).await?;

        let cancelled = taken(
            rig,
            vec![due_in(HOUR, "default"), due_in(40 * 24 * HOUR, "checks")],
        );
        let cancelled = cancelled.await?;
        for id in &cancelled {
            rig.client.cancel(id).await?;
        }
        // In windows that are there, and beyond all of them.
        let waits = [1, 2, 26, 24 * 40, 24 * 400].map(|hours| due_in(hours * HOUR, "default"));
        let scheduled = taken(rig, waits.to_vec()).await?;
        let sleeper = submission("sleep", &json!({"ms": 120_000}));
        let (running, queued) = asleep(rig, taken(rig, vec![sleeper; 13]).await?).await?;
        let by_state = vec![
            (Scheduled, scheduled),
            (Queued, queued),
            (Running, running),
            (Retrying, retrying),
            (Succeeded, succeeded),
            (Failed, failed),
            (DeadLettered, dead),
            (Cancelled, cancelled),
        ];
        Ok(Self { by_state })
    }

    /// Those in any of these states; all if there are none.
    fn of(&self, states: &[ExecutionState]) -> BTreeSet<String> {
        let wanted = |state| states.is_empty() || states.contains(state);
        let parts = self.by_state.iter().filter(|(state, _)| wanted(state));
        parts.flat_map(|(_, ids)| ids.clone()).collect()
    }

    async fn cancel_what_is_open(&self, rig: &Rig) -> Result<()> {
        for id in self.of(&[Queued, Running]) {
            rig.client.cancel(&id).await?;
        }
        Ok(())
    }
}

async fn taken(rig: &Rig, submissions: Vec<Submission>) -> Result<BTreeSet<String>> {
    let verdicts = rig.client.submit_batch(submissions).await?;
    let ids = verdicts
        .into_iter()
        .map(|verdict| verdict.map_err(|why| anyhow!("{why:?}")));
    ids.collect()
}

/// Waits until every slot is taken and that stays so; gives those that run and those that wait. While the
/// workers' slots go from one scheduler to the other, more may be handed out than there are slots.
async fn asleep(
    rig: &Rig,
    sleepers: BTreeSet<String>,
) -> Result<(BTreeSet<String>, BTreeSet<String>)> {
    let begin = Instant::now();
    let mut before = BTreeSet::new();
    loop {
        let (mut running, mut queued) = (BTreeSet::new(), BTreeSet::new());
        for id in &sleepers {
            match rig.client.get(id).await?.state() {
                Running => running.insert(id.clone()),
                _ => queued.insert(id.clone()),
            };
        }
        if running.len() >= SLOTS && running == before {
            return Ok((running, queued));
        }
        ensure!(begin.elapsed() < SOON, "{running:?} run, {queued:?} wait");
        before = running;
        sleep(Duration::from_millis(500)).await;
    }
}

fn filter(states: &[ExecutionState]) -> ListExecutionsRequest {
    ListExecutionsRequest {
        states: states.iter().map(|state| *state as i32).collect(),
        ..ListExecutionsRequest::default()
    }
}

fn ids(listed: &[ExecutionSummary]) -> BTreeSet<String> {
    listed.iter().map(|one| one.execution_id.clone()).collect()
}

/// The whole of a list, in pages of a size.
async fn all(
    client: &Client,
    mut list: ListExecutionsRequest,
    page_size: u32,
) -> Result<Vec<ExecutionSummary>, tonic::Status> {
    list.page_size = page_size;
    let mut listed = Vec::new();
    loop {
        let page = client.list(list.clone()).await?;
        listed.extend(page.executions);
        if page.next_page_token.is_empty() {
            return Ok(listed);
        }
        list.page_token = page.next_page_token;
    }
}

/// Waits until these, and no others, are in any of the states.
async fn settled(
    rig: &Rig,
    states: &[ExecutionState],
    expected: &BTreeSet<String>,
) -> Result<Vec<ExecutionSummary>> {
    let begin = Instant::now();
    loop {
        let listed = all(&rig.client, filter(states), 500).await?;
        if ids(&listed) == *expected {
            return Ok(listed);
        }
        ensure!(
            begin.elapsed() < SOON,
            "{states:?}: {listed:#?}, not {expected:#?}"
        );
        sleep(Duration::from_millis(100)).await;
    }
}

async fn pages_make_up_the_list(
    rig: &Rig,
    list: &ListExecutionsRequest,
    listed: &[ExecutionSummary],
) -> Result<()> {
    for page_size in [1, 2, 5] {
        let pages = all(&rig.client, list.clone(), page_size).await?;
        ensure!(pages == listed, "by {page_size}: {pages:#?}\n{listed:#?}");
    }
    Ok(())
}

async fn says_what_get_says(rig: &Rig, one: &ExecutionSummary) -> Result<()> {
    let whole = rig.client.get(&one.execution_id).await?;
    let attempt = whole.attempts.last().map_or(0, |attempt| attempt.number);
    let same = ExecutionSummary {
        execution_id: whole.execution_id,
        job_type: whole.job_type,
        queue: whole.queue,
        priority: whole.priority,
        state: whole.state,
        reason: whole.reason,
        attempt,
        submitted_at: whole.submitted_at,
        due_at: whole.due_at,
        state_since: whole.state_since,
        correlation_id: whole.correlation_id,
        labels: whole.labels,
    };
    ensure!(*one == same, "{one:#?}, but {same:#?}");
    Ok(())
}

/// The latest first, by the time that the states say.
fn in_order(states: &[ExecutionState], listed: &[ExecutionSummary]) -> Result<()> {
    let is_final = |state: &ExecutionState| watchwork::client::is_final(*state);
    let time = |one: &ExecutionSummary| {
        if states.is_empty() || states.contains(&Succeeded) {
            return one.submitted_at;
        }
        match one.state() {
            // When a retry is due isn't in the list, but it is an hour after the last attempt.
            Retrying => one.state_since.map(|since| prost_types::Timestamp {
                seconds: since.seconds + 3_600,
                ..since
            }),
            Scheduled => one.due_at,
            _ => one.state_since,
        }
    };
    let mixed = states.iter().any(is_final) && !states.iter().all(is_final);
    let times = listed.iter().map(|one| match mixed {
        true => one.submitted_at,
        false => time(one),
    });
    let times: Vec<_> = times
        .map(|time| time.map(|t| (t.seconds, t.nanos)))
        .collect();
    ensure!(times.is_sorted_by(|a, b| a >= b), "{states:?}: {listed:#?}");
    Ok(())
}
