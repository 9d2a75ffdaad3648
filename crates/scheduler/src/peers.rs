use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use proto::internal::v1::scheduler_service_client::SchedulerServiceClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Status};

/// Messages between services: a batch of 8 MiB and what wraps it.
pub(crate) const MESSAGE_BYTES: usize = 16 << 20;

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

    /// A request with the installation's credentials.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request
            .metadata_mut()
            .insert("authorization", self.authorization.clone());
        request
    }
}
