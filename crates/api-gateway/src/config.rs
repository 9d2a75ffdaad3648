//! The gateway's own settings.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use service::{Secret, ServiceArgs};

use crate::gateway::Settings;
use crate::scheduler_link::ServiceToken;
use crate::seeds::Seed;

/// The edge of Watchwork: takes calls, checks who is calling and what they send, and hands them to
/// the scheduler that owns their lane. Stateless: run as many as you like.
#[derive(Parser)]
#[command(name = "api-gateway", version)]
pub struct Args {
    /// Where calls are taken.
    #[arg(long, env = "LISTEN_ADDR", default_value = "0.0.0.0:8080")]
    pub listen_addr: SocketAddr,

    /// Schedulers to begin with, comma separated, each http://host:port. A name with several
    /// addresses counts as several; further schedulers are learnt from these.
    #[arg(long, env = "SCHEDULERS", value_delimiter = ',', required = true)]
    pub schedulers: Vec<Seed>,

    /// The installation's service token, the same as the schedulers'. Better given as a variable
    /// or a file than as a flag, which others on the machine can read.
    #[arg(long, env = "SERVICE_TOKEN", hide_env_values = true)]
    pub service_token: Option<String>,

    /// The file that holds the service token.
    #[arg(long, env = "SERVICE_TOKEN_FILE")]
    pub service_token_file: Option<PathBuf>,

    /// What all processes take.
    #[command(flatten)]
    pub service: ServiceArgs,
}

impl Args {
    /// The settings that the arguments give.
    ///
    /// # Errors
    /// The token is missing, given twice, or no header could carry it.
    pub fn settings(&self) -> anyhow::Result<Settings> {
        let (value, file) = (self.service_token.clone(), self.service_token_file.clone());
        let token = Secret::resolve("SERVICE_TOKEN", value, file)?;
        Ok(Settings {
            seeds: self.schedulers.clone(),
            token: ServiceToken::new(&token)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedulers_are_a_comma_separated_list() {
        let line = [
            "api-gateway",
            "--schedulers",
            "http://a:1,http://b:2",
            "--service-token",
            "t",
        ];
        let args = Args::try_parse_from(line).unwrap();
        let seeds: Vec<_> = args.schedulers.iter().map(Seed::to_string).collect();
        assert_eq!(seeds, ["http://a:1", "http://b:2"]);
        assert!(args.settings().is_ok());
    }

    #[test]
    fn a_missing_token_is_named() {
        let line = ["api-gateway", "--schedulers", "http://a:1"];
        let error = Args::try_parse_from(line).unwrap().settings().unwrap_err();
        assert!(error.to_string().contains("SERVICE_TOKEN"), "{error}");
    }
}
