//! Where spans are sent, and how: settings, the standard `OTEL_*` variables, and the resource.

use std::time::Duration;

use anyhow::{Context, bail};
use opentelemetry::KeyValue;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::{EnvResourceDetector, ResourceDetector};
use opentelemetry_sdk::trace::SpanExporter as _;

use crate::args::{OtlpProtocol, ServiceArgs};
use crate::process::ServiceName;
use crate::process_metrics::VERSION;

/// The longest that one export may take, its retries included.
pub(crate) const EXPORT_TIMEOUT: Duration = Duration::from_secs(3);

/// A trace store that takes OTLP.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Destination {
    endpoint: String,
    protocol: OtlpProtocol,
}

/// Looks a variable up; a function of the process' environment, but for tests.
type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Destination {
    /// Where `args` and the environment say that spans go; `None` if nowhere.
    ///
    /// # Errors
    /// If the protocol is one that isn't spoken here.
    pub(crate) fn resolve(args: &ServiceArgs) -> anyhow::Result<Option<Self>> {
        Self::resolve_in(args, &|name| std::env::var(name).ok())
    }

    fn resolve_in(
        args: &ServiceArgs,
        environment: Environment<'_>,
    ) -> anyhow::Result<Option<Self>> {
        let variable = |name: &str| environment(name).filter(|value| !value.is_empty());
        let switched_off = variable("OTEL_SDK_DISABLED")
            .is_some_and(|v| v.eq_ignore_ascii_case("true"))
            || variable("OTEL_TRACES_EXPORTER").is_some_and(|v| v == "none");
        if !args.tracing_enabled || switched_off {
            return Ok(None);
        }
        let Some(endpoint) = Endpoint::find(args, &variable) else {
            return Ok(None);
        };
        let protocol = protocol(args, &variable)?;
        Ok(Some(Self {
            endpoint: endpoint.url(protocol),
            protocol,
        }))
    }

    /// An exporter that sends in the name of the service that `resource` describes. Connects at
    /// the first export, and again whenever the connection is gone.
    ///
    /// # Errors
    /// If the endpoint is no URL, or asks for TLS, which isn't built in.
    pub(crate) fn exporter(&self, resource: &Resource) -> anyhow::Result<SpanExporter> {
        if !self.endpoint.starts_with("http://") {
            bail!(
                "trace endpoint {} isn't of the form http://host:port",
                self.endpoint
            );
        }
        let exporter = match self.protocol {
            OtlpProtocol::Grpc => SpanExporter::builder()
                .with_tonic()
                .with_endpoint(&self.endpoint)
                .with_timeout(EXPORT_TIMEOUT)
                .build(),
            OtlpProtocol::Http => SpanExporter::builder()
                .with_http()
                .with_protocol(Protocol::HttpBinary)
                .with_endpoint(&self.endpoint)
                .with_timeout(EXPORT_TIMEOUT)
                .build(),
        };
        let mut exporter =
            exporter.with_context(|| format!("trace endpoint {} is unusable", self.endpoint))?;
        exporter.set_resource(resource);
        Ok(exporter)
    }
}

/// Who a span is from. `instance_id` is left out for a service that another one speaks for.
pub(crate) fn resource(service: ServiceName, instance_id: Option<&str>) -> Resource {
    let instance = instance_id.map(|id| KeyValue::new("service.instance.id", id.to_owned()));
    Resource::builder_empty()
        .with_detectors(&[Box::new(EnvResourceDetector::new()) as Box<dyn ResourceDetector>])
        .with_attributes([
            KeyValue::new("service.namespace", "watchwork"),
            KeyValue::new("service.name", service.as_str()),
            KeyValue::new("service.version", VERSION),
        ])
        .with_attributes(instance)
        .build()
}

fn protocol(args: &ServiceArgs, variable: Environment<'_>) -> anyhow::Result<OtlpProtocol> {
    if let Some(protocol) = args.tracing_protocol {
        return Ok(protocol);
    }
    let names = [
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
        "OTEL_EXPORTER_OTLP_PROTOCOL",
    ];
    let Some((name, value)) = names.iter().find_map(|name| Some((name, variable(name)?))) else {
        return Ok(OtlpProtocol::Grpc);
    };
    match value.as_str() {
        "grpc" => Ok(OtlpProtocol::Grpc),
        "http/protobuf" => Ok(OtlpProtocol::Http),
        other => bail!("{name}={other} isn't spoken here: use grpc or http/protobuf"),
    }
}

/// An endpoint by what it was named in, which decides how its path is meant for HTTP.
enum Endpoint {
    /// Our own setting: a path that is missing is the standard's.
    Setting(String),
    /// The standard's variable for traces: complete.
    Traces(String),
    /// The standard's variable for all signals: a base.
    Base(String),
}

impl Endpoint {
    fn find(args: &ServiceArgs, variable: Environment<'_>) -> Option<Self> {
        let setting = args
            .tracing_endpoint
            .clone()
            .filter(|endpoint| !endpoint.is_empty());
        setting
            .map(Self::Setting)
            .or_else(|| variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").map(Self::Traces))
            .or_else(|| variable("OTEL_EXPORTER_OTLP_ENDPOINT").map(Self::Base))
    }

    fn url(self, protocol: OtlpProtocol) -> String {
        let needs_path = protocol == OtlpProtocol::Http
            && match &self {
                Self::Setting(url) => is_without_path(url),
                Self::Traces(_) => false,
                Self::Base(_) => true,
            };
        let (Self::Setting(url) | Self::Traces(url) | Self::Base(url)) = self;
        if needs_path {
            format!("{}/v1/traces", url.trim_end_matches('/'))
        } else {
            url
        }
    }
}

fn is_without_path(url: &str) -> bool {
    let after_scheme = url.split_once("://").map_or(url, |(_, rest)| rest);
    !after_scheme.trim_end_matches('/').contains('/')
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Binary {
        #[command(flatten)]
        service: ServiceArgs,
    }

    fn resolve(flags: &[&str], variables: &[(&str, &str)]) -> anyhow::Result<Option<String>> {
        let flags = std::iter::once("binary").chain(flags.iter().copied());
        let args = Binary::try_parse_from(flags)?.service;
        let environment = |name: &str| {
            variables
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| value.to_string())
        };
        let destination = Destination::resolve_in(&args, &environment)?;
        Ok(destination.map(|it| format!("{:?} {}", it.protocol, it.endpoint)))
    }

    #[test]
    fn our_own_endpoint_comes_before_the_standards_and_that_for_traces_before_the_general_one() {
        let general = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://general:4317");
        let traces = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://traces:4317");
        let own = ["--tracing-endpoint", "http://own:4317"];
        let found = |flags: &[&str], variables: &[_]| resolve(flags, variables).unwrap();
        assert_eq!(
            found(&own, &[general, traces]).unwrap(),
            "Grpc http://own:4317"
        );
        assert_eq!(
            found(&[], &[general, traces]).unwrap(),
            "Grpc http://traces:4317"
        );
        assert_eq!(found(&[], &[general]).unwrap(), "Grpc http://general:4317");
        assert_eq!(found(&["--tracing-endpoint", ""], &[]), None);
    }

    #[test]
    fn over_http_the_path_is_completed_as_the_standard_says() {
        let http = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
        for (name, given, url) in [
            (
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                "http://c:4318",
                "http://c:4318/v1/traces",
            ),
            (
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                "http://c/otlp/",
                "http://c/otlp/v1/traces",
            ),
            (
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
                "http://c:4318",
                "http://c:4318",
            ),
        ] {
            let found = resolve(&[], &[http, (name, given)]).unwrap();
            assert_eq!(found.unwrap(), format!("Http {url}"));
        }
        for (given, url) in [
            ("http://c:4318/", "http://c:4318/v1/traces"),
            ("http://c/own/path", "http://c/own/path"),
        ] {
            let found = resolve(&["--tracing-endpoint", given], &[http]).unwrap();
            assert_eq!(found.unwrap(), format!("Http {url}"));
        }
    }

    #[test]
    fn tracing_is_off_by_our_setting_and_by_the_standards() {
        let flags = ["--tracing-endpoint", "http://c:4317", "--tracing-enabled"];
        let on: Vec<&str> = flags.into_iter().chain(["true"]).collect();
        let off: Vec<&str> = flags.into_iter().chain(["false"]).collect();
        assert!(resolve(&on, &[]).unwrap().is_some());
        assert_eq!(resolve(&off, &[]).unwrap(), None);
        assert_eq!(
            resolve(&on, &[("OTEL_SDK_DISABLED", "true")]).unwrap(),
            None
        );
        assert_eq!(
            resolve(&on, &[("OTEL_TRACES_EXPORTER", "none")]).unwrap(),
            None
        );
    }

    #[test]
    fn what_isnt_spoken_is_refused_at_the_start() {
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ];
        assert!(resolve(&[], &variables).is_err());
        for endpoint in ["https://c:4317", "c:4317"] {
            let destination = Destination {
                endpoint: endpoint.to_owned(),
                protocol: OtlpProtocol::Grpc,
            };
            assert!(
                destination
                    .exporter(&Resource::builder_empty().build())
                    .is_err()
            );
        }
    }
}
