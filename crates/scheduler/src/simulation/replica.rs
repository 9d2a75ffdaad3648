//! One scheduler of the world: the real parts, put together as a process does.

use std::sync::Arc;
use std::time::Duration;

use domain::IdKey;
use proto::v1::ClusterView;
use rand::SeedableRng;
use rand::rngs::StdRng;
use store::{Claimant, Retention, TermHolder, WindowMap};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Witness;
use super::database::Model;
use super::link::Link;
use super::storage::Connection;
use crate::catalog::Catalog;
use crate::clock::{DatabaseClock, Deadline};
use crate::dispatch::Bell;
use crate::group::Group;
use crate::leader::{Leader, WindowTerms};
use crate::metrics::Metrics;
use crate::ownership::LaneKeeper;
use crate::peers::Peers;
use crate::rpc::Internal;
use crate::session::Sessions;
use crate::shared::{Groups, Shared};

/// How many lanes the world has.
pub(super) const LANES: u16 = 4;
pub(super) const LANE_LEASE: Duration = Duration::from_secs(4);
pub(super) const WORKER_LEASE: Duration = Duration::from_secs(3);
/// Short, so that much goes through the `due` table.
const DUE_HORIZON: Duration = Duration::from_secs(2);
const GROUPS: usize = 2;
const ID_KEY: [u8; 16] = [7; 16];

pub(super) struct Replica {
    pub(super) name: String,
    pub(super) shared: Arc<Shared>,
    pub(super) groups: Groups,
    pub(super) internal: Internal,
    pub(super) link: Arc<Link>,
    pub(super) shutdown: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Replica {
    pub(super) fn start(model: &Model, name: &str, seed: u64, trouble: u32) -> Self {
        let link = Link::new(seed, trouble);
        let bell = Arc::new(Bell::new(GROUPS));
        let shared = shared(model, name, &link, &bell);
        let (dropped, drops) = mpsc::unbounded_channel();
        let mut tasks = Vec::new();
        let groups = (0..GROUPS).map(|place| {
            let chance = StdRng::seed_from_u64(seed.wrapping_mul(31) + place as u64);
            let (shared, bell) = (Arc::clone(&shared), Arc::clone(&bell));
            let (group, handle) = Group::new(place, shared, bell, (dropped.clone(), chance));
            tasks.push(tokio::spawn(group.run()));
            handle
        });
        let groups = Groups(groups.collect());
        let shutdown = CancellationToken::new();
        let claimant = Claimant {
            id: name.to_owned(),
            incarnation: Uuid::from_u128(u128::from(seed) << 64 | 1),
            address: format!("http://{name}"),
            lease: LANE_LEASE,
            proof: [0; 32],
        };
        let holder = TermHolder {
            incarnation: claimant.incarnation,
            label: name.to_owned(),
            lease: LANE_LEASE,
        };
        let (history, slack) = (0, 0);
        let retention = Retention { history, slack };
        let terms = WindowTerms {
            width: 1,
            retention,
        };
        let leader = Leader::new(Arc::clone(&shared), holder, LANES, terms);
        tasks.push(tokio::spawn(leader.run(shutdown.clone())));
        let own = (Arc::clone(&shared), groups.clone());
        let keeper = LaneKeeper::new(own.0, own.1, claimant, LANES, drops);
        tasks.push(tokio::spawn(keeper.run(shutdown.clone())));
        let token = "0123456789abcdef".to_owned();
        let peers = Arc::new(Peers::new(&token).expect("a token of the right kind"));
        let own = (Arc::clone(&shared), groups.clone());
        let internal = Internal::new(own.0, own.1, peers, token, shutdown.clone());
        Self {
            name: name.to_owned(),
            shared,
            groups,
            internal,
            link,
            shutdown,
            tasks,
        }
    }

    /// As kill -9 does.
    pub(super) fn kill(&self) {
        self.link.kill();
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn shared(model: &Model, name: &str, link: &Arc<Link>, bell: &Arc<Bell>) -> Arc<Shared> {
    let connection = Connection {
        model: model.clone(),
        link: Arc::clone(link),
    };
    let database: store::SharedStorage = Arc::new(connection);
    let metrics = Metrics::new(&prometheus::Registry::new(), name);
    Arc::new(Shared {
        scheduler_id: name.to_owned(),
        id_key: IdKey::new(ID_KEY),
        clock: DatabaseClock::new(),
        deadline: Deadline::passed_already(),
        lease_trouble: watch::Sender::new(None),
        catalog: Catalog::new(Arc::clone(&database)),
        sessions: Sessions::new(Arc::clone(bell)),
        windows: watch::Sender::new(Arc::new(WindowMap::default())),
        view: watch::Sender::new(Arc::new(ClusterView::default())),
        lanes_freed: Notify::new(),
        metrics: metrics.expect("names are registered once"),
        spans: service::SpanSink::disabled(),
        worker_lease: WORKER_LEASE,
        due_horizon: DUE_HORIZON,
        waiting_share: model.waiting_share,
        witness: Some(witness(model.clone())),
        database,
    })
}

/// After every row: what the owner has in memory is what the chain says.
fn witness(model: Model) -> Witness {
    Arc::new(move |lane| {
        let state = model.state();
        let replayed = &state.tables.replayed[&lane.id()];
        if replayed.link() == lane.link() {
            assert!(replayed == lane, "lane {}: replay isn't memory", lane.id());
        }
        super::truth::check_counters(lane);
    })
}
