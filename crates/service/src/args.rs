//! The arguments that all processes take, as flags or environment variables.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{ArgAction, Args, ValueEnum};

/// Arguments of every process; each binary flattens them into its own with
/// `#[command(flatten)]`. A variable that is set but empty counts as not set where the value is
/// optional.
#[derive(Args, Debug, Clone)]
pub struct ServiceArgs {
    /// Address of the admin port (health and metrics). Default: every interface, port 9101 for
    /// the gateway, 9102 for the scheduler, 9103 for the worker.
    #[arg(long, env = "METRICS_ADDR")]
    pub metrics_addr: Option<SocketAddr>,

    /// Name of this instance in logs, metrics and traces: `[a-z0-9][a-z0-9._-]{0,127}`. Default:
    /// service, host name and four random hex digits.
    #[arg(long, env = "INSTANCE_ID")]
    pub instance_id: Option<String>,

    /// Form of the log on standard output.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    pub log_format: LogFormat,

    /// Whether spans are exported at all. Without an endpoint nothing is exported either way.
    #[arg(long, env = "TRACING_ENABLED", default_value_t = true, action = ArgAction::Set)]
    pub tracing_enabled: bool,

    /// OTLP endpoint that takes the spans, such as `http://collector:4317`. Default:
    /// `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`, then `OTEL_EXPORTER_OTLP_ENDPOINT`.
    #[arg(long, env = "TRACING_ENDPOINT")]
    pub tracing_endpoint: Option<String>,

    /// Protocol spoken to the endpoint. Default: `OTEL_EXPORTER_OTLP_TRACES_PROTOCOL`, then
    /// `OTEL_EXPORTER_OTLP_PROTOCOL`, then gRPC.
    #[arg(long, env = "TRACING_PROTOCOL", value_enum)]
    pub tracing_protocol: Option<OtlpProtocol>,

    /// Share of traces kept whatever becomes of them, 0 to 1.
    #[arg(long, env = "TRACING_SAMPLE_RATE", default_value_t = 0.01, value_parser = parse_rate)]
    pub tracing_sample_rate: f64,

    /// How long a shutdown may take until what is left is cut off, with a unit: `10s`, `1m`.
    #[arg(long, env = "SHUTDOWN_GRACE", default_value = "10s", value_parser = humantime::parse_duration)]
    pub shutdown_grace: Duration,
}

/// Form of the log.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people at a terminal.
    Text,
}

/// How OTLP is spoken.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtlpProtocol {
    /// gRPC, usually on port 4317.
    Grpc,
    /// Protocol buffers over HTTP/1.1, usually on port 4318.
    #[value(alias = "http/protobuf")]
    Http,
}

fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.0..=1.0).contains(&rate) => Ok(rate),
        _ => Err("expected a number from 0 to 1".to_owned()),
    }
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

    fn parse(args: &[&str]) -> Result<ServiceArgs, clap::Error> {
        Binary::try_parse_from(std::iter::once("binary").chain(args.iter().copied()))
            .map(|binary| binary.service)
    }

    #[test]
    fn a_grace_needs_its_unit() {
        assert!(parse(&["--shutdown-grace", "10"]).is_err());
        let args = parse(&["--shutdown-grace", "1500ms"]).unwrap();
        assert_eq!(args.shutdown_grace, Duration::from_millis(1500));
    }

    #[test]
    fn a_sample_rate_is_a_share() {
        assert!(parse(&["--tracing-sample-rate", "1.1"]).is_err());
        assert!(parse(&["--tracing-sample-rate", "NaN"]).is_err());
        assert_eq!(
            parse(&["--tracing-sample-rate", "1"])
                .unwrap()
                .tracing_sample_rate,
            1.0
        );
    }

    #[test]
    fn tracing_is_switched_off_by_a_value() {
        assert!(
            !parse(&["--tracing-enabled", "false"])
                .unwrap()
                .tracing_enabled
        );
    }
}
