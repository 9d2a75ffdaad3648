use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt, future, stream};
use proto::v1;
use proto::v1::work_request::Message as Request;
use proto::v1::work_response::Message as Response;
use proto::v1::worker_service_client::WorkerServiceClient;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::metadata::{Ascii, MetadataValue};

use super::heartbeat::{Heartbeats, Shown};
use super::peers::PeerId;

/// Messages that wait to be written before the link holds results back.
const OUTBOX: usize = 64;
/// Tasks come in batches with their payloads.
const MAX_MESSAGE_BYTES: usize = 64 << 20;
/// How long connecting and the scheduler's Welcome may take together.
const WELCOME_WITHIN: Duration = Duration::from_secs(5);

/// What a session tells the link.
pub(super) enum Event {
    /// A connection is made, and the scheduler waits for Hello.
    Opened {
        peer: PeerId,
        outbox: mpsc::Sender<v1::WorkRequest>,
    },
    /// The scheduler's terms came; the lease with it lasts until then.
    Welcomed {
        peer: PeerId,
        welcome: v1::Welcome,
        until: Instant,
    },
    /// A heartbeat was answered.
    Extended { peer: PeerId, until: Instant },
    /// Anything else that the scheduler said.
    Received { peer: PeerId, message: Response },
    /// The session is over.
    Lost { peer: PeerId, reason: String },
    /// The seeds as addresses, or why there are none.
    Seeds(Result<Vec<String>, String>),
}

/// One attempt at a stream with one scheduler: it connects, reads, and beats, until the stream
/// breaks or the link drops it.
pub(super) struct Session {
    pub(super) peer: PeerId,
    pub(super) address: String,
    pub(super) authorization: MetadataValue<Ascii>,
    /// Back-off before it connects.
    pub(super) delay: Duration,
    pub(super) events: mpsc::Sender<Event>,
    /// What beats say.
    pub(super) shown: Arc<Shown>,
}

/// Why a session ended.
type Reason = String;

impl Session {
    /// Runs to the end and tells it.
    pub(super) async fn run(self) {
        sleep(self.delay).await;
        let reason = match self.converse().await {
            Ok(()) => "the scheduler closed the stream".to_owned(),
            Err(reason) => reason,
        };
        self.tell(Event::Lost {
            peer: self.peer,
            reason,
        })
        .await;
    }

    async fn converse(&self) -> Result<(), Reason> {
        let (outbox, requests) = mpsc::channel(OUTBOX);
        let beats_outbox = outbox.downgrade();
        let begun = Instant::now();
        let (mut responses, welcome) = timeout(WELCOME_WITHIN, self.connect(outbox, requests))
            .await
            .map_err(|_| format!("no Welcome within {WELCOME_WITHIN:?}"))??;
        let mut beats = Heartbeats::new(&welcome, begun);
        self.tell(Event::Welcomed {
            peer: self.peer,
            welcome,
            until: beats.until(),
        })
        .await;
        let mut ticks = interval(beats.interval());
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                response = responses.message() => {
                    let Some(response) = response.map_err(describe)? else { return Ok(()) };
                    self.received(response, &mut beats).await;
                }
                _ = ticks.tick() => {
                    // Closed by the link: it only waits for the scheduler to close too.
                    let Some(outbox) = beats_outbox.upgrade() else { continue };
                    self.beat(&mut beats, &outbox)?;
                }
            }
        }
    }

    /// The stream, once the scheduler has answered Hello. The link is asked for Hello only when
    /// the connection stands, so that what it says is true when it is read.
    async fn connect(
        &self,
        outbox: mpsc::Sender<v1::WorkRequest>,
        requests: mpsc::Receiver<v1::WorkRequest>,
    ) -> Result<(Streaming<v1::WorkResponse>, v1::Welcome), Reason> {
        let channel = service::channel(&self.address).map_err(|error| format!("{error:#}"))?;
        let (peer, events) = (self.peer, self.events.clone());
        let opening = stream::once(async move {
            let _ = events.send(Event::Opened { peer, outbox }).await;
            None
        });
        let requests = opening
            .chain(ReceiverStream::new(requests).map(Some))
            .filter_map(future::ready);
        let mut request = tonic::Request::new(requests);
        request
            .metadata_mut()
            .insert("authorization", self.authorization.clone());
        let mut client =
            WorkerServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let mut responses = client.work(request).await.map_err(describe)?.into_inner();
        match responses
            .message()
            .await
            .map_err(describe)?
            .and_then(|first| first.message)
        {
            Some(Response::Welcome(welcome)) => Ok((responses, welcome)),
            Some(_) => Err("the scheduler's first message was not Welcome".to_owned()),
            None => Err("the scheduler closed the stream before Welcome".to_owned()),
        }
    }

    async fn received(&self, response: v1::WorkResponse, beats: &mut Heartbeats) {
        match response.message {
            Some(Response::HeartbeatAnswer(answer)) => {
                if let Some(until) = beats.answered(answer.number) {
                    self.tell(Event::Extended {
                        peer: self.peer,
                        until,
                    })
                    .await;
                }
            }
            Some(message) => {
                self.tell(Event::Received {
                    peer: self.peer,
                    message,
                })
                .await
            }
            // A kind of message that later versions bring.
            None => {}
        }
    }

    fn beat(
        &self,
        beats: &mut Heartbeats,
        outbox: &mpsc::Sender<v1::WorkRequest>,
    ) -> Result<(), Reason> {
        let now = Instant::now();
        if beats.until() < now {
            return Err("no heartbeat was answered within the lease".to_owned());
        }
        // A full outbox means that the scheduler doesn't read: then a beat is of no use either.
        if let Ok(slot) = outbox.try_reserve() {
            let beat = beats.beat(now, &self.shown);
            slot.send(v1::WorkRequest {
                message: Some(Request::Heartbeat(beat)),
            });
        }
        Ok(())
    }

    async fn tell(&self, event: Event) {
        // Without a link the session is about to be dropped.
        let _ = self.events.send(event).await;
    }
}

/// A status as people can use it: tonic's own text hides the cause of a failed connection.
fn describe(status: tonic::Status) -> Reason {
    let mut text = format!("{}: {}", status.code(), status.message());
    let mut source = std::error::Error::source(&status);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
