//! Who is calling, and whether they may: API keys, checked at each call.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};
use proto::internal::v1::{KeyScope, ResolveKeyRequest, ResolveKeyResponse};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tonic::Code;

use crate::cluster_view::ClusterView;
use crate::fresh::Fresh;
use crate::problem::Problem;

/// How old what is known of a key may be; so long a revoked one still works.
const KEY_LIFETIME: Duration = Duration::from_secs(5);
const KEYS_REMEMBERED: usize = 10_000;

/// Whose call it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Principal {
    /// The tenant's number; never 0, which is all of them.
    pub(crate) tenant: u32,
}

/// Checks keys.
pub(crate) struct Keys {
    cluster: ClusterView,
    known: Fresh<u64, Option<Arc<KnownKey>>>,
    metrics: KeyMetrics,
}

struct KnownKey {
    secret_sha256: [u8; 32],
    tenant: u32,
    scopes: Vec<i32>,
}

impl Keys {
    pub(crate) fn new(
        cluster: ClusterView,
        registry: &Registry,
    ) -> Result<Self, prometheus::Error> {
        let known = Fresh::new(KEYS_REMEMBERED, |_| KEY_LIFETIME);
        Ok(Self {
            cluster,
            known,
            metrics: KeyMetrics::new(registry)?,
        })
    }

    /// Who calls, if their key has `scope`.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` without a valid key, `PERMISSION_DENIED` without the scope, `UNAVAILABLE`
    /// if nobody can be asked about the key.
    pub(crate) async fn admit(
        &self,
        headers: &HeaderMap,
        scope: KeyScope,
    ) -> Result<Principal, Problem> {
        let admitted = self.check(headers, scope).await;
        match admitted {
            Ok(principal) => {
                self.metrics.success.inc();
                Ok(principal)
            }
            Err(Refused::ByKey(reason, problem)) => {
                self.metrics.failures[reason as usize].inc();
                let reason = reason.label();
                tracing::debug!(event = "auth_failed", reason, "call refused");
                Err(problem)
            }
            // Nobody's key is at fault.
            Err(Refused::Unasked(problem)) => Err(problem),
        }
    }

    async fn check(&self, headers: &HeaderMap, scope: KeyScope) -> Result<Principal, Refused> {
        let header = headers.get(AUTHORIZATION).ok_or_else(missing)?;
        let key = ApiKey::parse(header.as_bytes()).ok_or_else(malformed)?;
        let known = self.resolve(key.id).await.map_err(Refused::Unasked)?;
        let known = known.ok_or_else(|| wrong(AuthFailure::Unknown))?;
        let digest: [u8; 32] = Sha256::digest(key.secret).into();
        if !bool::from(digest.ct_eq(&known.secret_sha256)) {
            return Err(wrong(AuthFailure::WrongSecret));
        }
        // A key of all tenants is a worker's: no client call can be made for "all".
        if known.tenant == 0 || !known.scopes.contains(&(scope as i32)) {
            return Err(out_of_scope(scope));
        }
        Ok(Principal {
            tenant: known.tenant,
        })
    }

    async fn resolve(&self, id: u64) -> Result<Option<Arc<KnownKey>>, Problem> {
        let ask = |id: &u64| {
            let (cluster, key_id) = (self.cluster.clone(), format!("{id:016x}"));
            async move { ask_for_key(&cluster, key_id).await }
        };
        self.known.get(id, ask).await
    }
}

async fn ask_for_key(
    cluster: &ClusterView,
    key_id: String,
) -> Result<Option<Arc<KnownKey>>, Problem> {
    let answer = cluster.ask_any(|link| {
        let request = link.read(ResolveKeyRequest {
            key_id: key_id.clone(),
        });
        async move {
            let answer = link.client().resolve_key(request).await;
            answer
                .map(tonic::Response::into_inner)
                .map_err(|status| link.failure(&status))
        }
    });
    match answer.await {
        Ok(answer) => Ok(KnownKey::new(answer).map(Arc::new)),
        Err(problem) if problem.code == Code::NotFound => Ok(None),
        Err(problem) => Err(problem),
    }
}

impl KnownKey {
    fn new(answer: ResolveKeyResponse) -> Option<Self> {
        let secret_sha256 = answer.secret_sha256.as_ref().try_into().ok()?;
        Some(Self {
            secret_sha256,
            tenant: answer.tenant,
            scopes: answer.scopes,
        })
    }
}

/// The two halves of `wk_<id>_<secret>`.
struct ApiKey<'a> {
    id: u64,
    secret: &'a [u8],
}

impl<'a> ApiKey<'a> {
    /// The key in a header `Bearer wk_…`; `None` if it isn't one.
    fn parse(header: &'a [u8]) -> Option<Self> {
        let (scheme, key) = header.split_at_checked(b"Bearer ".len())?;
        if !scheme.eq_ignore_ascii_case(b"Bearer ") {
            return None;
        }
        let (id, rest) = key.strip_prefix(b"wk_")?.split_first_chunk::<16>()?;
        let secret = rest.strip_prefix(b"_")?;
        let is_lower_hex = |b: &u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        let is_secret =
            (32..=256).contains(&secret.len()) && secret.iter().all(u8::is_ascii_alphanumeric);
        if !is_secret || !id.iter().all(is_lower_hex) {
            return None;
        }
        let id = u64::from_str_radix(std::str::from_utf8(id).ok()?, 16).ok()?;
        Some(Self { id, secret })
    }
}

/// Why a key was refused.
#[derive(Clone, Copy, Debug)]
enum AuthFailure {
    Missing,
    Malformed,
    Unknown,
    WrongSecret,
    OutOfScope,
}

/// Why a call isn't let in.
enum Refused {
    /// For its key.
    ByKey(AuthFailure, Problem),
    /// Nobody could be asked about its key.
    Unasked(Problem),
}

impl AuthFailure {
    const ALL: [Self; 5] = [
        Self::Missing,
        Self::Malformed,
        Self::Unknown,
        Self::WrongSecret,
        Self::OutOfScope,
    ];

    fn label(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::WrongSecret => "wrong_secret",
            Self::OutOfScope => "out_of_scope",
        }
    }
}

fn missing() -> Refused {
    let message = "send your API key in the metadata: authorization: Bearer wk_…";
    Refused::ByKey(
        AuthFailure::Missing,
        Problem::new(Code::Unauthenticated, "API_KEY_MISSING", message),
    )
}

fn malformed() -> Refused {
    let message = "the authorization metadata holds no API key: expected Bearer wk_<id>_<secret>";
    Refused::ByKey(
        AuthFailure::Malformed,
        Problem::new(Code::Unauthenticated, "API_KEY_INVALID", message),
    )
}

/// Unknown, revoked and wrong keys get one answer, so that nobody learns which ids exist.
fn wrong(reason: AuthFailure) -> Refused {
    let message = "the API key is unknown, revoked or wrong";
    Refused::ByKey(
        reason,
        Problem::new(Code::Unauthenticated, "API_KEY_INVALID", message),
    )
}

fn out_of_scope(scope: KeyScope) -> Refused {
    let name = match scope {
        KeyScope::Submit => "submit",
        KeyScope::Read => "read",
        KeyScope::Worker => "worker",
        KeyScope::Operate => "operate",
        KeyScope::Unspecified => "unknown",
    };
    let message = format!("this needs an API key of a tenant with the scope {name}");
    Refused::ByKey(
        AuthFailure::OutOfScope,
        Problem::new(Code::PermissionDenied, "SCOPE_MISSING", message),
    )
}

struct KeyMetrics {
    success: IntCounter,
    /// By [`AuthFailure`].
    failures: Vec<IntCounter>,
}

impl KeyMetrics {
    fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let opts = Opts::new(
            "api_auth_success_total",
            "Calls with a valid key of the right scope.",
        );
        let success = IntCounterVec::new(opts, &["method"])?;
        let opts = Opts::new("api_auth_failure_total", "Calls refused for their key.");
        let failures = IntCounterVec::new(opts, &["method", "reason"])?;
        registry.register(Box::new(success.clone()))?;
        registry.register(Box::new(failures.clone()))?;
        let failure =
            |reason: AuthFailure| failures.with_label_values(&["api_key", reason.label()]);
        Ok(Self {
            success: success.with_label_values(&["api_key"]),
            failures: AuthFailure::ALL.into_iter().map(failure).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_an_id_and_a_secret() {
        let secret = "S".repeat(32);
        let header = format!("bearer wk_00000000000000ff_{secret}");
        let key = ApiKey::parse(header.as_bytes()).unwrap();
        assert_eq!((key.id, key.secret), (255, secret.as_bytes()));
        for bad in [
            String::new(),
            "Bearer".to_owned(),
            format!("Basic wk_00000000000000ff_{secret}"),
            format!("Bearer wk_00000000000000FF_{secret}"),
            format!("Bearer wk_00000000000000f_{secret}"),
            format!("Bearer wk_00000000000000ff{secret}"),
            format!("Bearer wk_00000000000000ff_{}", "S".repeat(31)),
            format!("Bearer wk_00000000000000ff_{}", "S".repeat(257)),
            format!("Bearer wk_00000000000000ff_{secret} "),
            format!("Bearer wk_+0000000000000ff_{secret}"),
        ] {
            assert!(ApiKey::parse(bad.as_bytes()).is_none(), "{bad}");
        }
    }
}
