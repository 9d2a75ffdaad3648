use bytes::Bytes;
use serde::de::DeserializeOwned;

/// What a handler's payload can be decoded from.
pub trait FromPayload: Sized + Send + 'static {
    /// Decodes `body`, whose media type is `content_type` (empty: not said).
    ///
    /// # Errors
    /// It is no such payload; the text says why, for people. The attempt fails for good.
    fn from_payload(body: Bytes, content_type: &str) -> Result<Self, String>;
}

/// The payload as it was submitted.
impl FromPayload for Bytes {
    fn from_payload(body: Bytes, _content_type: &str) -> Result<Self, String> {
        Ok(body)
    }
}

/// A JSON payload, whatever media type it was submitted with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Json<T>(
    /// The decoded value.
    pub T,
);

impl<T: DeserializeOwned + Send + 'static> FromPayload for Json<T> {
    fn from_payload(body: Bytes, _content_type: &str) -> Result<Self, String> {
        serde_json::from_slice(&body)
            .map(Self)
            .map_err(|error| format!("the payload is not the JSON that this type takes: {error}"))
    }
}
