//! What waits against the room there is: what workers are told of it, and what is asked back of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use domain::lane::Class;
use domain::{LaneId, Priority};
use proto::v1::{TakeBack, work_response};
use rustc_hash::FxHashMap;
use tokio::time::Instant;

use super::actor::Group;
use super::take_back::{self, Blocked, HandedOut};
use super::tasks::held_of;
use crate::demand::EVERY;
use crate::dispatch::Places;
use crate::session::Session;

/// When a group looks at its lines for this.
pub(super) struct Pressure {
    looked: Instant,
    /// Whether it may have changed since.
    stale: bool,
}

impl Pressure {
    pub(super) fn new() -> Self {
        Self {
            looked: Instant::now(),
            stale: true,
        }
    }

    /// Something came, ended or was claimed.
    pub(super) fn touch(&mut self) {
        self.stale = true;
    }

    /// When the next look is due, if anything changed.
    pub(super) fn due(&self) -> Option<Instant> {
        self.stale.then(|| self.looked + EVERY)
    }
}

impl Group {
    /// Looks at all lines, unless it has done so just now: tells the workers' sessions what waits for each,
    /// and asks for what is less urgent where something more urgent finds no room.
    pub(super) fn look_at_lines(&mut self) {
        if self.pressure.looked.elapsed() < EVERY {
            return;
        }
        (self.pressure.looked, self.pressure.stale) = (Instant::now(), false);
        let sessions = self.shared.sessions.connected();
        self.servings.begin(&sessions);
        let has_room: Vec<bool> = sessions.iter().map(|s| s.free(self.place) > 0).collect();
        let (mut waiting, mut suspects) = (vec![0; sessions.len()], vec![false; sessions.len()]);
        let mut blocked = Vec::new();
        for (lane, class, count) in self.waiting_lines() {
            let Some(places) = self.places_of(lane, class, &sessions) else {
                continue;
            };
            // Suspects run one at a time: more of them want no more room, and none is worth a task of others.
            let wanted = if class.suspect { 1 } else { count };
            for place in places.iter() {
                waiting[*place] += wanted;
                suspects[*place] |= class.suspect;
            }
            let no_room = !places.is_empty() && !places.iter().any(|place| has_room[*place]);
            if no_room && !class.suspect {
                blocked.extend(self.blocked(lane, class, (count, places)));
            }
        }
        for (session, (waiting, suspects)) in sessions.iter().zip(waiting.into_iter().zip(suspects))
        {
            session.note_waiting(self.place, waiting, suspects);
        }
        self.take_back(&sessions, blocked);
    }

    fn waiting_lines(&self) -> Vec<(LaneId, Class, u64)> {
        let of_lane = |(id, lane): (&LaneId, &domain::lane::Lane)| {
            let id = *id;
            let lens = lane.waiting().lens();
            lens.map(|(class, len)| (id, class, len))
                .collect::<Vec<_>>()
        };
        self.lanes.iter().flat_map(of_lane).collect()
    }

    /// Who serves a line; `None` while its names aren't known: they come with its heads.
    fn places_of(
        &mut self,
        lane: LaneId,
        class: Class,
        sessions: &[Arc<Session>],
    ) -> Option<Places> {
        if let Some(places) = self.servings.known(class) {
            return Some(Arc::clone(places));
        }
        let first = self.lanes.get(&lane)?.waiting().head(class)?.front()?.first;
        let work = &self.sides.get(&lane)?.heads.get(first)?.work;
        let names = (&*work.queue.name, &*work.job_type);
        Some(Arc::clone(self.servings.who(class, names, sessions)))
    }

    fn blocked(
        &self,
        lane: LaneId,
        class: Class,
        (count, sessions): (u64, Places),
    ) -> Option<Blocked> {
        let front = self.lanes.get(&lane)?.waiting().head(class)?.front()?;
        Some(Blocked {
            priority: class.priority,
            since: front.enqueued,
            count,
            sessions,
        })
    }

    fn take_back(&mut self, sessions: &[Arc<Session>], blocked: Vec<Blocked>) {
        let Some(most_urgent) = blocked.iter().map(|line| line.priority).min() else {
            return;
        };
        let handed_out = self.handed_out(sessions, most_urgent);
        if handed_out.is_empty() {
            return;
        }
        let mut beyond: Vec<u64> = sessions.iter().map(|s| s.beyond_window()).collect();
        let mut by_session: BTreeMap<usize, Vec<HandedOut>> = BTreeMap::new();
        for task in take_back::choose(blocked, handed_out, &mut beyond) {
            by_session.entry(task.session).or_default().push(task);
        }
        for (place, tasks) in by_session {
            match sessions[place].may_take_back() {
                true => self.ask_back(&sessions[place], &tasks),
                // Another group has just asked: later.
                false => self.pressure.touch(),
            }
        }
    }

    /// What is less urgent than this, was handed out and may not have begun: what nobody has cancelled or
    /// asked back.
    fn handed_out(&self, sessions: &[Arc<Session>], than: Priority) -> Vec<HandedOut> {
        let numbers = sessions.iter().enumerate();
        let places: FxHashMap<u64, usize> = numbers.map(|(i, s)| (s.number, i)).collect();
        let mut tasks = Vec::new();
        let lanes = self.lanes.iter();
        for (id, lane) in lanes.filter(|(_, lane)| lane.runs_less_urgent(than)) {
            let held = self.sides.get(id).into_iter().flat_map(|side| &side.held);
            let open = held.filter(|(_, held)| held.cancelled.is_none() && !held.asked_back);
            tasks.extend(open.filter_map(|(seq, held)| {
                let running = lane.running().get(seq)?;
                if running.class.priority <= than {
                    return None;
                }
                Some(HandedOut {
                    id: held.known.id,
                    fence: running.fence,
                    priority: running.class.priority,
                    claimed: running.claimed,
                    session: *places.get(&held.slot.as_ref()?.session().number)?,
                })
            }));
        }
        tasks
    }

    fn ask_back(&mut self, session: &Session, tasks: &[HandedOut]) {
        for task in tasks {
            let side = self.sides.get_mut(&task.id.lane());
            if let Some(held) = side.and_then(|side| side.held.get_mut(&task.id.seq())) {
                held.asked_back = true;
            }
        }
        tracing::debug!(
            event = "tasks_asked_back",
            worker_id = &*session.worker_id,
            tasks = tasks.len(),
            "something more urgent waits"
        );
        let held = tasks.iter().map(|task| held_of((task.id, task.fence)));
        session.send(work_response::Message::TakeBack(TakeBack {
            held: held.collect(),
        }));
    }
}
