use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use proto::internal::v1::scheduler_service_server::SchedulerServiceServer;
use proto::v1::ClusterView;
use proto::v1::worker_service_server::WorkerServiceServer;
use rand::SeedableRng;
use rand::rngs::StdRng;
use service::Process;
use sha2::{Digest, Sha256};
use store::{Claimant, Database, Installation, Retention, TermHolder, WindowMap, within};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::args::{Args, Secrets};
use crate::catalog::Catalog;
use crate::clock::{DatabaseClock, Deadline};
use crate::dispatch::Bell;
use crate::group::Group;
use crate::leader::{Leader, WindowTerms};
use crate::metrics::{Metrics, query_times};
use crate::options;
use crate::ownership::LaneKeeper;
use crate::peers::{MESSAGE_BYTES, Peers};
use crate::rpc::{Internal, WorkerApi};
use crate::seed::Seed;
use crate::session::Sessions;
use crate::shared::{Groups, Shared};

/// Runs a scheduler until its process shuts down.
///
/// # Errors
/// The arguments contradict themselves, the database can't be reached at the start, or a port can't be
/// listened on.
pub async fn serve(process: Process, args: Args) -> anyhow::Result<()> {
    let secrets = args.secrets()?;
    let (database, installation) = open_database(&process, &args, &secrets).await?;
    let listener = TcpListener::bind(args.listen_addr)
        .await
        .with_context(|| format!("LISTEN_ADDR {} can't be listened on", args.listen_addr))?;
    let port = listener.local_addr()?.port();
    let address = args
        .advertise_address
        .clone()
        .unwrap_or(format!("http://127.0.0.1:{port}"));
    let bell = Arc::new(Bell::new(usize::from(args.lane_groups)));
    let shared = share(&process, &args, database, &installation, &bell)?;
    let options = shared.catalog.read_options().await;
    options.context("the options of queues can't be read")?;
    tokio::spawn(options::keep_reading(
        Arc::clone(&shared),
        process.shutdown.clone(),
    ));
    let (groups, dropped) = start_groups(&shared, &bell, args.lane_groups);
    let claimant = Claimant {
        id: process.instance_id.clone(),
        incarnation: Uuid::new_v4(),
        address: address.clone(),
        lease: args.lane_lease,
        proof: proof_of(&secrets.service_token),
    };
    let leading = start_leader(&process, &args, &shared, &claimant, installation.lanes);
    let lanes = installation.lanes;
    let keeper = LaneKeeper::new(
        Arc::clone(&shared),
        groups.clone(),
        claimant,
        lanes,
        dropped,
    );
    let peers = Arc::new(Peers::new(&secrets.service_token)?);
    let leaving = (Arc::clone(&shared), Arc::clone(&peers));
    let silent = CancellationToken::new();
    let keeping = keep_lanes(keeper, leaving, (process.shutdown.clone(), silent.clone()));
    let keeping = tokio::spawn(keeping);
    tokio::spawn(watch_health(process.clone(), Arc::clone(&shared)));
    tracing::info!(event = "listening", address = format!("127.0.0.1:{port}"),
        admin_address = %admin_address(&process), "scheduler listens");
    let internal = Internal::new(
        Arc::clone(&shared),
        groups.clone(),
        peers,
        secrets.service_token,
        process.shutdown.clone(),
    );
    let workers = WorkerApi::new(shared, groups, silent);
    serve_grpc(&process, workers, internal, listener).await?;
    keeping.await.context("the lane keeper failed")?;
    leading.await.context("the leader failed")
}

/// Keeps lanes until the shutdown, and tells the others when they are theirs to take. Only then are workers' streams
/// `silent`: what the last commits claimed must go out, or it waits until its new owner takes it for lost.
async fn keep_lanes(
    keeper: LaneKeeper,
    (shared, peers): (Arc<Shared>, Arc<Peers>),
    (shutdown, silent): (CancellationToken, CancellationToken),
) {
    keeper.run(shutdown).await;
    silent.cancel();
    let view = Arc::clone(&shared.view.borrow());
    peers.tell_of_freed_lanes(&view, &shared.scheduler_id).await;
}

/// What tells a token from another, and doesn't tell the token.
fn proof_of(service_token: &str) -> [u8; 32] {
    let hash = Sha256::new().chain_update("watchwork service token:");
    hash.chain_update(service_token).finalize().into()
}

fn admin_address(process: &Process) -> String {
    format!("127.0.0.1:{}", process.admin_addr.port())
}

/// How many lanes a new installation gets if nobody says.
const LANES: u16 = 64;

async fn open_database(
    process: &Process,
    args: &Args,
    secrets: &Secrets,
) -> anyhow::Result<(Database, Installation)> {
    let times = query_times(&process.registry)?;
    let database = Database::connect(&secrets.database_url, u32::from(args.database_pool), times)
        .await
        .context("DATABASE_URL: the database can't be opened")?;
    check_settings(&database, args.allow_unsafe_database).await?;
    let lanes = args.lanes.unwrap_or(LANES);
    let installation = database.install(lanes, rand::random()).await?;
    if args.lanes.is_some_and(|lanes| lanes != installation.lanes) {
        let installed = installation.lanes;
        tracing::warn!(
            event = "lanes_differ",
            lanes,
            installed,
            "LANES isn't what the database was installed with, which counts and can't be changed"
        );
    }
    if let Some(path) = &args.seed_file {
        plant(&Seed::read(path)?, &database, installation.lanes).await?;
    }
    Ok((database, installation))
}

/// Nothing that is acknowledged may be lost: a database that doesn't keep what it has committed is only taken by who
/// says so.
async fn check_settings(database: &Database, allow_unsafe: bool) -> anyhow::Result<()> {
    let settings = database.unsafe_settings().await?.join(", ");
    if settings.is_empty() {
        return Ok(());
    }
    anyhow::ensure!(
        allow_unsafe,
        "DATABASE_URL: with {settings} a crash of the database loses what it has acknowledged. Turn it on, or, if \
         your work may be lost, set ALLOW_UNSAFE_DATABASE=true"
    );
    tracing::warn!(
        event = "database_unsafe",
        settings,
        "a crash of the database loses what it has acknowledged"
    );
    Ok(())
}

async fn plant(seed: &Seed, database: &Database, lanes: u16) -> anyhow::Result<()> {
    let differences = seed.differences(database).await?;
    if !differences.is_empty() {
        let differences = differences.join("; ");
        tracing::warn!(
            event = "seed_differs",
            differences,
            "SEED_FILE says otherwise than what is there: keys are replaced, all else stays as it is; do \
             all schedulers have the same?"
        );
    }
    seed.plant(database, lanes).await
}

fn share(
    process: &Process,
    args: &Args,
    database: Database,
    installation: &Installation,
    bell: &Arc<Bell>,
) -> anyhow::Result<Arc<Shared>> {
    Ok(Arc::new(Shared {
        scheduler_id: process.instance_id.clone(),
        id_key: installation.id_key.clone(),
        clock: DatabaseClock::new(),
        deadline: Deadline::passed_already(),
        lease_trouble: watch::Sender::new(None),
        catalog: Catalog::new(Arc::new(database.clone())),
        sessions: Sessions::new(Arc::clone(bell)),
        windows: watch::Sender::new(Arc::new(WindowMap::default())),
        view: watch::Sender::new(Arc::new(ClusterView::default())),
        lanes_freed: Notify::new(),
        metrics: Metrics::new(&process.registry, &process.instance_id)?,
        spans: process.spans.clone(),
        worker_lease: args.worker_lease,
        due_horizon: args.due_horizon,
        waiting_share: args.waiting_share(),
        database: Arc::new(database),
        #[cfg(test)]
        witness: None,
    }))
}

type Dropped = mpsc::UnboundedReceiver<Vec<domain::LaneId>>;

fn start_groups(shared: &Arc<Shared>, bell: &Arc<Bell>, count: u16) -> (Groups, Dropped) {
    let (dropped, drops) = mpsc::unbounded_channel();
    let handles = (0..usize::from(count)).map(|place| {
        let (shared, bell) = (Arc::clone(shared), Arc::clone(bell));
        let own = (dropped.clone(), StdRng::from_os_rng());
        let (group, handle) = Group::new(place, shared, bell, own);
        tokio::spawn(group.run());
        handle
    });
    (Groups(handles.collect()), drops)
}

/// Hours for which windows are left alone once their time is over: far longer than any statement that was
/// planned before then may still take.
const SLACK_HOURS: i32 = 1;

fn start_leader(
    process: &Process,
    args: &Args,
    shared: &Arc<Shared>,
    claimant: &Claimant,
    lanes: u16,
) -> tokio::task::JoinHandle<()> {
    let holder = TermHolder {
        incarnation: claimant.incarnation,
        label: claimant.id.clone(),
        lease: args.lane_lease,
    };
    let terms = WindowTerms {
        width: i32::from(args.window_hours),
        retention: Retention {
            history: args.retention_hours(),
            slack: SLACK_HOURS,
        },
    };
    let leader = Leader::new(Arc::clone(shared), holder, lanes, terms);
    tokio::spawn(leader.run(process.shutdown.clone()))
}

async fn serve_grpc(
    process: &Process,
    workers: WorkerApi,
    internal: Internal,
    listener: TcpListener,
) -> anyhow::Result<()> {
    let shutdown = process.shutdown.clone();
    let router = service::server()
        .add_service(service::health(process).await)
        .add_service(
            WorkerServiceServer::new(workers)
                .max_decoding_message_size(MESSAGE_BYTES)
                .max_encoding_message_size(MESSAGE_BYTES),
        )
        .add_service(
            SchedulerServiceServer::new(internal)
                .max_decoding_message_size(MESSAGE_BYTES)
                .max_encoding_message_size(MESSAGE_BYTES),
        );
    let grace = process.shutdown_grace / 2;
    service::serve_with_drain(router, listener, shutdown, grace).await
}

/// Whether this scheduler may hold lanes.
fn coordination(shared: &Shared) -> Result<(), String> {
    if !shared.deadline.has_passed() {
        return Ok(());
    }
    let trouble = shared.lease_trouble.borrow();
    let why = trouble.as_deref().unwrap_or("presence can't be written");
    Err(format!("no lease is held: {why}"))
}

/// A database that takes longer than this to answer at all is none.
const PING_LIMIT: Duration = Duration::from_secs(2);

/// Says whether this scheduler can do its work.
async fn watch_health(process: Process, shared: Arc<Shared>) {
    let mut looks = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            () = process.shutdown.cancelled() => return,
        }
        let database = match within(PING_LIMIT, shared.database.ping()).await {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("the database doesn't answer: {error}")),
        };
        process.readiness.set("database", database);
        process.readiness.set("coordination", coordination(&shared));
        let windows = shared.windows.borrow().covers(shared.clock.now().hour());
        let windows = if windows {
            Ok(())
        } else {
            Err("no leader has made windows".to_owned())
        };
        process.readiness.set("windows", windows);
    }
}
