use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use proto::internal::v1::LookForLanesRequest;
use proto::internal::v1::scheduler_service_client::SchedulerServiceClient;
use proto::v1::ClusterView;
use tokio::time::timeout;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Status};

/// Messages between services: a batch of 8 MiB and what wraps it.
pub(crate) const MESSAGE_BYTES: usize = 16 << 20;

/// How long a scheduler that leaves takes to say so.
const TOLD_WITHIN: Duration = Duration::from_millis(500);

/// The other schedulers, as this one calls them.
pub(crate) struct Peers {
    authorization: MetadataValue<Ascii>,
    channels: Mutex<HashMap<String, Channel>>,
}

impl Peers {
    pub(crate) fn new(service_token: &str) -> anyhow::Result<Self> {
        let authorization = format!("Bearer {service_token}").parse()?;
        Ok(Self {
            authorization,
            channels: Mutex::default(),
        })
    }

    /// A client of the scheduler at this address.
    pub(crate) fn client(&self, address: &str) -> Result<SchedulerServiceClient<Channel>, Status> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let channel = match channels.get(address) {
            Some(channel) => channel.clone(),
            None => {
                let channel = service::channel(address)
                    .map_err(|error| Status::internal(format!("peer {address}: {error}")))?;
                channels.insert(address.to_owned(), channel.clone());
                channel
            }
        };
        let client = SchedulerServiceClient::new(channel);
        Ok(client
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES))
    }

    /// Tells the other schedulers of a view that lanes were given up. Who can't be told finds them at its next look.
    pub(crate) async fn tell_of_freed_lanes(&self, view: &ClusterView, own_id: &str) {
        let others = view.schedulers.iter();
        let others = others.filter(|scheduler| scheduler.scheduler_id != own_id);
        let told = others.map(|scheduler| async {
            let mut client = self.client(&scheduler.address).ok()?;
            let request = self.request(LookForLanesRequest {});
            client.look_for_lanes(request).await.ok()
        });
        // Nobody waits for one that doesn't answer.
        let _ = timeout(TOLD_WITHIN, join_all(told)).await;
    }

    /// A request with the installation's credentials.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request
            .metadata_mut()
            .insert("authorization", self.authorization.clone());
        request
    }
}
