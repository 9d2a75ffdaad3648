use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tonic::{Request, Status};

use crate::catalog::Catalog;

/// The scope that lets a key connect as a worker, as stored.
const WORKER_SCOPE: i16 = proto::internal::v1::KeyScope::Worker as i16;

/// An API key as its holder shows it: `wk_` + public id + `_` + secret.
pub(crate) struct ShownKey<'a> {
    pub(crate) id: &'a str,
    pub(crate) secret: &'a str,
}

impl<'a> ShownKey<'a> {
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let (id, secret) = text.strip_prefix("wk_")?.split_once('_')?;
        let id_ok = id.len() == 16 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let secret_ok =
            (32..=128).contains(&secret.len()) && secret.bytes().all(|b| b.is_ascii_alphanumeric());
        (id_ok && secret_ok).then_some(Self { id, secret })
    }

    pub(crate) fn sha256(&self) -> [u8; 32] {
        Sha256::digest(self.secret).into()
    }
}

/// The tenant that a worker's key serves, 0 for all.
pub(crate) async fn check_worker<T>(
    catalog: &Catalog,
    request: &Request<T>,
) -> Result<i32, Status> {
    let refused =
        || Status::unauthenticated("a valid worker key is needed: authorization: Bearer wk_…");
    let shown = service::bearer(request.metadata())
        .and_then(ShownKey::parse)
        .ok_or_else(refused)?;
    let unavailable =
        |error: store::Error| Status::unavailable(format!("looking up the key: {error}"));
    let key = catalog
        .key(shown.id)
        .await
        .map_err(unavailable)?
        .ok_or_else(refused)?;
    if !bool::from(key.secret_sha256.ct_eq(&shown.sha256())) {
        return Err(refused());
    }
    if !key.scopes.contains(&WORKER_SCOPE) {
        return Err(Status::permission_denied(
            "the key has not the scope worker",
        ));
    }
    Ok(key.tenant)
}

/// Lets only the installation's own services in.
pub(crate) fn check_service(
    token: &str,
    request: &tonic::metadata::MetadataMap,
) -> Result<(), Status> {
    let shown = service::bearer(request).unwrap_or_default();
    if bool::from(shown.as_bytes().ct_eq(token.as_bytes())) {
        return Ok(());
    }
    Err(Status::unauthenticated(
        "the installation's service token is needed",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_taken_apart_only_if_it_is_whole() {
        let secret = "S".repeat(40);
        let text = format!("wk_0123456789abcdef_{secret}");
        let key = ShownKey::parse(&text).unwrap();
        assert_eq!((key.id, key.secret), ("0123456789abcdef", secret.as_str()));
        for bad in [
            "",
            "wk_",
            "wk_0123456789abcdef",
            "wk_0123456789ABCDEF_SSSS",
            &text[..40],
        ] {
            assert!(ShownKey::parse(bad).is_none(), "{bad}");
        }
    }
}
