//! Whether the process takes traffic, and what its parts say about themselves.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};
use tokio::sync::watch;

/// Shared between the parts of a process, which report, and the health endpoints, which ask.
/// Begins as "starting"; ready once at least one component reported and none has failed;
/// "draining", for good, from the beginning of the shutdown.
#[derive(Clone)]
pub struct Readiness {
    state: Arc<watch::Sender<State>>,
}

/// Everything that was reported.
#[derive(Default, Clone)]
pub(crate) struct State {
    pub(crate) draining: bool,
    pub(crate) components: BTreeMap<&'static str, Component>,
}

/// What one component last said.
#[derive(Default, Clone)]
pub(crate) struct Component {
    pub(crate) condition: Condition,
    pub(crate) facts: Map<String, Value>,
}

/// How a component is.
#[derive(Default, Clone, PartialEq)]
pub(crate) enum Condition {
    /// It only stated facts so far.
    #[default]
    Unknown,
    Healthy,
    /// Works, but over its threshold.
    Degraded(String),
    Unhealthy(String),
}

impl Readiness {
    /// A process that has just started: not ready.
    pub fn new() -> Self {
        Self {
            state: Arc::new(watch::Sender::new(State::default())),
        }
    }

    /// Reports that `component` works, or why it doesn't.
    pub fn set(&self, component: &'static str, state: Result<(), String>) {
        self.report(
            component,
            state.map_or_else(Condition::Unhealthy, |()| Condition::Healthy),
        );
    }

    /// Reports that `component` works, but worse than it should; the process stays ready.
    pub fn set_degraded(&self, component: &'static str, reason: impl Into<String>) {
        self.report(component, Condition::Degraded(reason.into()));
    }

    /// States a fact about `component` (its latency, its depth) that `/health/status` shows
    /// beside its condition. Facts alone don't make a process ready.
    pub fn set_fact(&self, component: &'static str, fact: &'static str, value: impl Into<Value>) {
        let value = value.into();
        self.state.send_if_modified(|state| {
            let facts = &mut state.components.entry(component).or_default().facts;
            let changed = facts.get(fact) != Some(&value);
            facts.insert(fact.to_owned(), value);
            changed
        });
    }

    /// Whether the process takes traffic; the error is the reason why not.
    pub fn check(&self) -> Result<(), String> {
        self.state.borrow().check()
    }

    /// What each component last reported; a degraded one is `Ok`, as is one that only stated facts.
    pub fn components(&self) -> Vec<(&'static str, Result<(), String>)> {
        let state = self.state.borrow();
        state
            .components
            .iter()
            .map(|(name, component)| (*name, component.check()))
            .collect()
    }

    /// The shutdown has begun.
    pub fn drain(&self) {
        self.state
            .send_if_modified(|state| !std::mem::replace(&mut state.draining, true));
    }

    /// The state, and a wake-up at each of its changes.
    pub(crate) fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    fn report(&self, component: &'static str, condition: Condition) {
        self.state.send_if_modified(|state| {
            let known = state
                .components
                .get(component)
                .map(|known| &known.condition);
            if known == Some(&condition) {
                return false;
            }
            state.components.entry(component).or_default().condition = condition;
            true
        });
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    /// Whether no component has reported yet.
    pub(crate) fn is_starting(&self) -> bool {
        self.components
            .values()
            .all(|component| component.condition == Condition::Unknown)
    }

    /// See [`Readiness::check`].
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.draining {
            return Err("draining".to_owned());
        }
        if self.is_starting() {
            return Err("starting".to_owned());
        }
        let failures: Vec<String> = self
            .components
            .iter()
            .filter_map(|(name, component)| {
                component
                    .check()
                    .err()
                    .map(|reason| format!("{name}: {reason}"))
            })
            .collect();
        if failures.is_empty() {
            Ok(())
        } else {
            Err(failures.join("; "))
        }
    }
}

impl Component {
    fn check(&self) -> Result<(), String> {
        match &self.condition {
            Condition::Unknown | Condition::Healthy | Condition::Degraded(_) => Ok(()),
            Condition::Unhealthy(reason) => Err(reason.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_ready_once_a_part_reported_and_none_failed() {
        let readiness = Readiness::new();
        assert_eq!(readiness.check(), Err("starting".to_owned()));
        readiness.set_fact("database", "latency_ms", 3);
        assert_eq!(readiness.check(), Err("starting".to_owned()));
        readiness.set("lanes", Ok(()));
        assert_eq!(readiness.check(), Ok(()));
        readiness.set("database", Err("connection refused".to_owned()));
        assert_eq!(
            readiness.check(),
            Err("database: connection refused".to_owned())
        );
        readiness.set_degraded("database", "SELECT 1 took 140 ms");
        assert_eq!(readiness.check(), Ok(()));
    }

    #[test]
    fn draining_outlasts_every_report() {
        let readiness = Readiness::new();
        readiness.set("lanes", Ok(()));
        readiness.drain();
        readiness.set("lanes", Ok(()));
        assert_eq!(readiness.check(), Err("draining".to_owned()));
    }

    #[test]
    fn a_watcher_wakes_for_changes_only() {
        let readiness = Readiness::new();
        let mut watcher = readiness.watch();
        readiness.set("lanes", Ok(()));
        assert!(watcher.has_changed().unwrap());
        watcher.mark_unchanged();
        readiness.set("lanes", Ok(()));
        assert!(!watcher.has_changed().unwrap());
    }
}
