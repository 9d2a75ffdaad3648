//! Handlers that tests steer.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use async_trait::async_trait;
use bytes::Bytes;
use serde::Deserialize;
use tokio::sync::{Semaphore, watch};
use worker::{
    Command, Context, Fail, Handler, HandlerError, Json, Noop, Output, Sleep, WorkerBuilder,
};

/// The switches of all of them.
#[derive(Clone, Default)]
pub(crate) struct Handlers {
    pub(crate) gate: Gate,
    pub(crate) block: Block,
}

impl Handlers {
    pub(crate) fn add_to(&self, builder: WorkerBuilder) -> WorkerBuilder {
        builder
            .handler("noop", Noop)
            .handler("sleep", Sleep)
            .handler("fail", Fail)
            .handler("command", Command::unguarded())
            .handler("gate", self.gate.clone())
            .handler("block", self.block.clone())
            .handler("panic", Panics)
            .handler("typed", Typed)
            .handler("large", Large)
            .handler("tell", Tell)
    }
}

/// Waits until the test lets it through, and ignores every request to stop.
#[derive(Clone)]
pub(crate) struct Gate {
    open: Arc<Semaphore>,
    inside: Arc<watch::Sender<u32>>,
    began: Arc<AtomicU32>,
}

impl Default for Gate {
    fn default() -> Self {
        let (open, inside) = (Arc::new(Semaphore::new(0)), Arc::new(watch::Sender::new(0)));
        Self {
            open,
            inside,
            began: Arc::default(),
        }
    }
}

struct Inside(Arc<watch::Sender<u32>>);

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl Gate {
    pub(crate) fn let_through(&self, count: usize) {
        self.open.add_permits(count);
    }

    /// Returns when exactly so many handlers wait.
    pub(crate) async fn holds(&self, count: u32) {
        let mut inside = self.inside.subscribe();
        let reached = inside.wait_for(|inside| *inside == count);
        tokio::time::timeout(crate::scheduler::SOON, reached)
            .await
            .unwrap_or_else(|_| panic!("the gate never held {count}"))
            .unwrap();
    }

    pub(crate) fn holds_now(&self) -> u32 {
        *self.inside.borrow()
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
        self.inside.send_modify(|count| *count += 1);
        let _inside = Inside(Arc::clone(&self.inside));
        self.open.acquire().await?.forget();
        Ok(Output::text("through"))
    }
}

/// Blocks its thread until the test lets it go.
#[derive(Clone)]
pub(crate) struct Block {
    release: Arc<Mutex<mpsc::Receiver<()>>>,
    releaser: mpsc::Sender<()>,
}

impl Default for Block {
    fn default() -> Self {
        let (releaser, release) = mpsc::channel();
        Self {
            release: Arc::new(Mutex::new(release)),
            releaser,
        }
    }
}

impl Block {
    pub(crate) fn release(&self) {
        self.releaser.send(()).unwrap();
    }
}

#[async_trait]
impl Handler for Block {
    type Payload = Bytes;

    async fn run(&self, _payload: Bytes, _context: Context) -> Result<Output, HandlerError> {
        self.release.lock().unwrap().recv()?;
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
