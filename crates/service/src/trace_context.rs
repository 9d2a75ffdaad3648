//! W3C trace context: where a piece of work belongs in a trace.

use std::future::Future;

use opentelemetry::Context;
use opentelemetry::trace::{
    FutureExt as _, SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState,
};

/// The place in a trace under which work happens: the trace, the parent span, and whether the
/// trace is already known to be kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TraceContext {
    /// The trace; never all zero in a context that was parsed.
    pub trace_id: [u8; 16],
    /// The parent span; never all zero in a context that was parsed.
    pub span_id: [u8; 8],
    /// Whether spans are exported as they end. If not, the verdict comes with the outcome.
    pub sampled: bool,
}

/// Length of a `traceparent` of version 00.
const TRACEPARENT_LEN: usize = 55;
const SAMPLED: u8 = 1;

impl TraceContext {
    /// Reads a `traceparent` header; `None` if it isn't legal. Of later versions the part that
    /// version 00 defines is read, as W3C asks.
    pub fn parse(traceparent: &str) -> Option<Self> {
        let bytes = traceparent.as_bytes();
        let version = lower_hex::<1>(bytes.get(..2)?)?[0];
        let length_is_legal = match version {
            0 => bytes.len() == TRACEPARENT_LEN,
            0xff => false,
            _ => bytes.len() == TRACEPARENT_LEN || bytes.get(TRACEPARENT_LEN) == Some(&b'-'),
        };
        if !length_is_legal
            || [2, 35, 52]
                .iter()
                .any(|&dash| bytes.get(dash) != Some(&b'-'))
        {
            return None;
        }
        let flags = lower_hex::<1>(&bytes[53..55])?[0];
        Self::new(lower_hex(&bytes[3..35])?, lower_hex(&bytes[36..52])?, flags)
    }

    /// The `traceparent` header for what happens under this context.
    pub fn traceparent(&self) -> String {
        let (trace, span) = (hex::encode(self.trace_id), hex::encode(self.span_id));
        format!("00-{trace}-{span}-{:02x}", u8::from(self.sampled))
    }

    /// Reads the 25 bytes of [`TraceContext::to_wire`]; `None` for any other length or zero ids.
    pub fn from_wire(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 25] = bytes.try_into().ok()?;
        let (trace_id, rest) = bytes.split_first_chunk::<16>()?;
        let (span_id, flags) = rest.split_first_chunk::<8>()?;
        Self::new(*trace_id, *span_id, flags[0])
    }

    /// Trace id, span id, flags.
    pub fn to_wire(&self) -> [u8; 25] {
        let mut bytes = [0; 25];
        bytes[..16].copy_from_slice(&self.trace_id);
        bytes[16..24].copy_from_slice(&self.span_id);
        bytes[24] = u8::from(self.sampled);
        bytes
    }

    /// The trace id as 32 hex digits.
    pub fn trace_id_hex(&self) -> String {
        hex::encode(self.trace_id)
    }

    /// The same for OpenTelemetry, marked as remote.
    pub fn otel(&self) -> SpanContext {
        let flags = if self.sampled {
            TraceFlags::SAMPLED
        } else {
            TraceFlags::default()
        };
        SpanContext::new(
            TraceId::from_bytes(self.trace_id),
            SpanId::from_bytes(self.span_id),
            flags,
            true,
            TraceState::NONE,
        )
    }

    /// Runs `future` with this as the current OpenTelemetry context: log lines in it carry the
    /// ids, and `tracing` spans in it are its children. Tasks spawned inside don't inherit it.
    pub fn scope<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        future.with_context(self.as_current())
    }

    /// [`TraceContext::scope`] for a synchronous piece.
    pub fn enter<R>(self, piece: impl FnOnce() -> R) -> R {
        let _attached = self.as_current().attach();
        piece()
    }

    fn as_current(&self) -> Context {
        Context::new().with_remote_span_context(self.otel())
    }

    fn new(trace_id: [u8; 16], span_id: [u8; 8], flags: u8) -> Option<Self> {
        let valid = trace_id != [0; 16] && span_id != [0; 8];
        valid.then_some(Self {
            trace_id,
            span_id,
            sampled: flags & SAMPLED != 0,
        })
    }
}

/// `tracestate` as it came, if it may travel on: 1 to 512 bytes of at most 32 legal members.
pub fn parse_tracestate(s: &str) -> Option<&str> {
    let members: Vec<&str> = s
        .split(',')
        .map(str::trim)
        .filter(|m| !m.is_empty())
        .collect();
    let legal = s.len() <= 512
        && (1..=32).contains(&members.len())
        && members.iter().all(|member| is_tracestate_member(member));
    legal.then_some(s)
}

fn is_tracestate_member(member: &str) -> bool {
    let Some((key, value)) = member.split_once('=') else {
        return false;
    };
    let key_is_legal = key.len() <= 256
        && key.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && key
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/' | b'@'));
    let value_is_legal = (1..=256).contains(&value.len())
        && value
            .bytes()
            .all(|b| (b' '..=b'~').contains(&b) && b != b'=');
    key_is_legal && value_is_legal
}

/// A new random trace id.
pub fn new_trace_id() -> [u8; 16] {
    loop {
        let id = rand::random();
        if id != [0; 16] {
            return id;
        }
    }
}

/// A new random span id.
pub fn new_span_id() -> [u8; 8] {
    loop {
        let id = rand::random();
        if id != [0; 8] {
            return id;
        }
    }
}

/// W3C allows lower case only.
fn lower_hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    if digits.iter().any(u8::is_ascii_uppercase) {
        return None;
    }
    let mut bytes = [0; N];
    hex::decode_to_slice(digits, &mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEGAL: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_survives_header_and_wire() {
        let context = TraceContext::parse(LEGAL).unwrap();
        assert!(context.sampled);
        assert_eq!(context.traceparent(), LEGAL);
        assert_eq!(TraceContext::from_wire(&context.to_wire()), Some(context));
    }

    #[test]
    fn only_the_sampled_flag_is_kept() {
        let context = TraceContext::parse(&LEGAL.replace("-01", "-fe")).unwrap();
        assert!(!context.sampled);
        assert!(context.traceparent().ends_with("-00"));
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        let later = LEGAL.replacen("00", "cc", 1);
        assert_eq!(TraceContext::parse(&later), TraceContext::parse(LEGAL));
        assert_eq!(
            TraceContext::parse(&format!("{later}-what")),
            TraceContext::parse(LEGAL)
        );
        assert_eq!(TraceContext::parse(&format!("{later}.what")), None);
    }

    #[test]
    fn illegal_traceparents_are_refused() {
        let illegal = [
            String::new(),
            LEGAL[..54].to_owned(),
            format!("{LEGAL}-00"),
            format!(" {LEGAL}"),
            LEGAL.replacen("00", "ff", 1),
            LEGAL.replace("0af7", "0AF7"),
            LEGAL.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            LEGAL.replace("b7ad6b7169203331", &"0".repeat(16)),
            LEGAL.replace('-', "_"),
            LEGAL.replace("-01", "-0g"),
            "€".repeat(20),
        ];
        for traceparent in illegal {
            assert_eq!(TraceContext::parse(&traceparent), None, "{traceparent:?}");
        }
    }

    #[test]
    fn other_wire_lengths_and_zero_ids_are_refused() {
        assert_eq!(TraceContext::from_wire(&[]), None);
        assert_eq!(TraceContext::from_wire(&[1; 24]), None);
        assert_eq!(TraceContext::from_wire(&[1; 26]), None);
        assert_eq!(TraceContext::from_wire(&[0; 25]), None);
    }

    #[test]
    fn tracestate_travels_on_only_if_it_is_legal() {
        for legal in [
            "rojo=00f067aa0ba902b7",
            "a=1, b@v=x y",
            "ot=th:fd70a4,congo=t61rcWkgMzE",
        ] {
            assert_eq!(parse_tracestate(legal), Some(legal));
        }
        let too_long = format!("a={}", "x".repeat(511));
        for illegal in [
            "", " , ", "a", "A=1", "a=", "a=\u{7f}", "a=b=c", "a=é", "a=\n", &too_long,
        ] {
            assert_eq!(parse_tracestate(illegal), None, "{illegal:?}");
        }
    }

    #[tokio::test]
    async fn a_scope_is_the_current_context_across_awaits() {
        let context = TraceContext::parse(LEGAL).unwrap();
        let seen = context
            .scope(async {
                tokio::task::yield_now().await;
                Context::map_current(|current| current.span().span_context().clone())
            })
            .await;
        assert_eq!(seen, context.otel());
        assert!(!Context::map_current(|current| current.has_active_span()));
        let seen = context.enter(|| Context::current().span().span_context().clone());
        assert_eq!(seen, context.otel());
    }
}
