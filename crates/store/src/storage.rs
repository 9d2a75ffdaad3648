use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::{
    CarryOver, Database, Election, Error, Housekeeper, KeepHouse, KeepLeases, KnowNames, Lead,
    LeaseKeeper, PostWork, Poster, ReadExecutions, ReadLists, TermHolder, WindowMap, WriteLanes,
    WriteSnapshots, Writer,
};

/// Everything that a scheduler needs of its database. PostgreSQL is one; a model of it, in which commits
/// fail, hang and are lost as chance has it, is another: schedulers are simulated on that.
#[async_trait]
pub trait Storage: KnowNames + ReadExecutions + ReadLists + WriteSnapshots + CarryOver {
    /// A writer for lanes, which isn't connected yet.
    fn writer(&self) -> Box<dyn WriteLanes>;

    /// A poster for inboxes, which isn't connected yet.
    fn poster(&self) -> Box<dyn PostWork>;

    /// A keeper of leases, which isn't connected yet.
    fn leases(&self) -> Box<dyn KeepLeases>;

    /// A candidate for the lead, who isn't connected yet.
    fn election(&self, holder: TermHolder) -> Box<dyn Lead>;

    /// Whoever removes windows that are over, who isn't connected yet.
    fn housekeeper(&self) -> Box<dyn KeepHouse>;

    /// The windows that there are.
    ///
    /// # Errors
    /// The database can't be read.
    async fn windows(&self) -> Result<WindowMap, Error>;

    /// How long the database takes to answer at all.
    ///
    /// # Errors
    /// It doesn't.
    async fn ping(&self) -> Result<Duration, Error>;

    /// The pool's connections: in use, idle, at most.
    fn pool_use(&self) -> (u32, u32, u32);
}

/// A scheduler's database, shared.
pub type SharedStorage = Arc<dyn Storage>;

#[async_trait]
impl Storage for Database {
    fn writer(&self) -> Box<dyn WriteLanes> {
        Box::new(Writer::new(self.clone()))
    }

    fn poster(&self) -> Box<dyn PostWork> {
        Box::new(Poster::new(self.clone()))
    }

    fn leases(&self) -> Box<dyn KeepLeases> {
        Box::new(LeaseKeeper::new(self.clone()))
    }

    fn election(&self, holder: TermHolder) -> Box<dyn Lead> {
        Box::new(Election::new(self.clone(), holder))
    }

    fn housekeeper(&self) -> Box<dyn KeepHouse> {
        Box::new(Housekeeper::new(self.clone()))
    }

    async fn windows(&self) -> Result<WindowMap, Error> {
        self.select_windows().await
    }

    async fn ping(&self) -> Result<Duration, Error> {
        self.answer_time().await
    }

    fn pool_use(&self) -> (u32, u32, u32) {
        self.connections()
    }
}
