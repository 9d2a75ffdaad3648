//! Handlers that tests steer.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use async_trait::async_trait;
use bytes::Bytes;
use serde::Deserialize;
use tokio::sync::{Semaphore, watch};
use worker::{
    Command, Context, Count, Fail, Handler, HandlerError, Json, Noop, Output, Sleep, WorkerBuilder,
};

use crate::scheduler::SOON;

/// The switches of all of them.
#[derive(Clone, Default)]
pub(crate) struct Handlers {
    pub(crate) gate: Gate,
    pub(crate) block: Block,
    pub(crate) heed: Heed,
}

impl Handlers {
    pub(crate) fn add_to(&self, builder: WorkerBuilder) -> WorkerBuilder {
        builder
            .handler("noop", Noop)
            .handler("sleep", Sleep)
            .handler("count", Count)
            .handler("fail", Fail)
            .handler("command", Command::unguarded())
            .handler("gate", self.gate.clone())
            .handler("block", self.block.clone())
            .handler("heed", self.heed.clone())
            .handler("panic", Panics)
            .handler("typed", Typed)
            .handler("large", Large)
            .handler("tell", Tell)
    }
}

/// How many handlers are inside of something.
#[derive(Clone)]
struct Crowd(Arc<watch::Sender<u32>>);

impl Default for Crowd {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

impl Crowd {
    fn enter(&self) -> Inside {
        self.0.send_modify(|count| *count += 1);
        Inside(self.clone())
    }

    fn now(&self) -> u32 {
        *self.0.borrow()
    }

    async fn is(&self, count: u32) {
        let mut inside = self.0.subscribe();
        let reached = inside.wait_for(|inside| *inside == count);
        tokio::time::timeout(SOON, reached)
            .await
            .unwrap_or_else(|_| panic!("they were never {count}"))
            .unwrap();
    }
}

struct Inside(Crowd);

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count -= 1);
    }
}

/// Waits until the test lets it through, and ignores every request to stop.
#[derive(Clone)]
pub(crate) struct Gate {
    open: Arc<Semaphore>,
    inside: Crowd,
    began: Arc<AtomicU32>,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            open: Arc::new(Semaphore::new(0)),
            inside: Crowd::default(),
            began: Arc::default(),
        }
    }
}

impl Gate {
    pub(crate) fn let_through(&self, count: usize) {
        self.open.add_permits(count);
    }

    /// Returns when exactly so many handlers wait.
    pub(crate) async fn holds(&self, count: u32) {
        self.inside.is(count).await;
    }

    pub(crate) fn holds_now(&self) -> u32 {
        self.inside.now()
    }

    pub(crate) fn began(&self) -> u32 {
        self.began.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Handler for Gate {
    type Payload = Bytes;

    async fn run(&self, _payload: Bytes, _context: Context) -> Result<Output, HandlerError> {
        self.began.fetch_add(1, Ordering::SeqCst);
        let _inside = self.inside.enter();
        self.open.acquire().await?.forget();
        Ok(Output::text("through"))
    }
}

/// Waits until it is told to stop, and then does what its payload says.
#[derive(Clone, Default)]
pub(crate) struct Heed {
    inside: Crowd,
    cancelled: Arc<AtomicU32>,
}

/// What a [`Heed`] does when it is told to stop.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Then {
    Succeed,
    Fail,
    Refuse,
    Stay,
}

impl Heed {
    /// Returns when exactly so many handlers are at it.
    pub(crate) async fn holds(&self, count: u32) {
        self.inside.is(count).await;
    }

    pub(crate) fn holds_now(&self) -> u32 {
        self.inside.now()
    }

    /// How many were told that their execution is cancelled.
    pub(crate) fn cancelled(&self) -> u32 {
        self.cancelled.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Handler for Heed {
    type Payload = Json<Then>;

    async fn run(
        &self,
        Json(then): Self::Payload,
        context: Context,
    ) -> Result<Output, HandlerError> {
        let cancellation = context.cancellation();
        let _inside = self.inside.enter();
        cancellation.cancelled().await;
        if context.is_execution_cancelled() {
            self.cancelled.fetch_add(1, Ordering::SeqCst);
        }
        match then {
            Then::Succeed => Ok(Output::text("done all the same")),
            Then::Fail => Err(HandlerError::new("told_to_stop", "I was told to stop")),
            Then::Refuse => Err(HandlerError::new("useless", "it is useless").permanent()),
            Then::Stay => std::future::pending().await,
        }
    }
}

/// Blocks its thread until the test lets it go.
#[derive(Clone)]
pub(crate) struct Block {
    inside: Crowd,
    release: Arc<Mutex<mpsc::Receiver<()>>>,
    releaser: mpsc::Sender<()>,
}

impl Default for Block {
    fn default() -> Self {
        let (releaser, release) = mpsc::channel();
        Self {
            inside: Crowd::default(),
            release: Arc::new(Mutex::new(release)),
            releaser,
        }
    }
}

impl Block {
    /// Returns when exactly so many handlers block.
    pub(crate) async fn holds(&self, count: u32) {
        self.inside.is(count).await;
    }

    pub(crate) fn release(&self) {
        self.releaser.send(()).unwrap();
    }
}

#[async_trait]
impl Handler for Block {
    type Payload = Bytes;

    async fn run(&self, _payload: Bytes, _context: Context) -> Result<Output, HandlerError> {
        let _inside = self.inside.enter();
        // Not for good: a test that fails must end too.
        self.release.lock().unwrap().recv_timeout(2 * SOON)?;
        Ok(Output::none())
    }
}

struct Panics;

#[async_trait]
impl Handler for Panics {
    type Payload = Bytes;

    async fn run(&self, _payload: Bytes, _context: Context) -> Result<Output, HandlerError> {
        panic!("out of cheese")
    }
}

struct Typed;

#[derive(Deserialize)]
struct Order {
    number: u32,
}

#[async_trait]
impl Handler for Typed {
    type Payload = Json<Order>;

    async fn run(
        &self,
        Json(order): Self::Payload,
        _context: Context,
    ) -> Result<Output, HandlerError> {
        Output::json(&(order.number + 1))
    }
}

struct Large;

#[async_trait]
impl Handler for Large {
    type Payload = Bytes;

    async fn run(&self, _payload: Bytes, _context: Context) -> Result<Output, HandlerError> {
        Ok(Output::text("x".repeat((64 << 10) + 1)))
    }
}

/// Tells what it knows.
struct Tell;

#[async_trait]
impl Handler for Tell {
    type Payload = Bytes;

    async fn run(&self, _payload: Bytes, context: Context) -> Result<Output, HandlerError> {
        Output::json(&serde_json::json!({
            "key": context.idempotency_key(),
            "headers": context.headers(),
            "seconds_left": context.remaining().as_secs(),
        }))
    }
}
