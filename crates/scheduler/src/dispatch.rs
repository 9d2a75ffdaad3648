//! Lines that wait, and the workers that could run what waits in them.

use std::sync::Arc;

use domain::LaneId;
use domain::lane::Class;
use rustc_hash::FxHashMap;
use tokio::sync::Notify;

use crate::session::Session;

/// Wakes the lane groups when a worker has room. A ring is kept for a group that is busy.
#[derive(Debug)]
pub(crate) struct Bell(Vec<Notify>);

impl Bell {
    pub(crate) fn new(groups: usize) -> Self {
        Self((0..groups).map(|_| Notify::new()).collect())
    }

    /// How many groups there are.
    pub(crate) fn groups(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn ring(&self) {
        self.0.iter().for_each(Notify::notify_one);
    }

    pub(crate) async fn rung(&self, group: usize) {
        self.0[group].notified().await;
    }
}

/// Places in the list of sessions.
pub(crate) type Places = Arc<[usize]>;

/// A line of a lane in which something waits, and who may run it.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) lane: LaneId,
    pub(crate) class: Class,
    pub(crate) sessions: Places,
}

/// Which sessions serve which lines: asked once for each line while the sessions are the same, since it
/// compares names.
#[derive(Default)]
pub(crate) struct Servings {
    /// The sessions' numbers.
    sessions: Vec<u64>,
    known: FxHashMap<Class, Places>,
}

impl Servings {
    /// From here on it is about these sessions.
    pub(crate) fn begin(&mut self, sessions: &[Arc<Session>]) {
        let same = self.sessions.len() == sessions.len()
            && sessions
                .iter()
                .zip(&self.sessions)
                .all(|(s, n)| s.number == *n);
        // What was asked about lines that are long empty stays behind; much of it goes now and then.
        if !same || self.known.len() > 100_000 {
            self.sessions = sessions.iter().map(|session| session.number).collect();
            self.known.clear();
        }
    }

    /// The places of those sessions that serve a line of this queue and type.
    pub(crate) fn who(
        &mut self,
        class: Class,
        (queue, job_type): (&str, &str),
        sessions: &[Arc<Session>],
    ) -> &Places {
        self.known.entry(class).or_insert_with(|| {
            let serves = |session: &Session| {
                let capabilities = &session.capabilities;
                capabilities.serve(class.tenant, queue, job_type)
            };
            let places = sessions.iter().enumerate();
            let places = places.filter(|(_, session)| serves(session));
            places.map(|(place, _)| place).collect()
        })
    }

    /// The same for a line that was asked about before.
    pub(crate) fn known(&self, class: Class) -> Option<&Places> {
        self.known.get(&class)
    }
}
