//! What each process of the cluster is told when it starts.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use crate::member::Launch;
use crate::options::Options;
use crate::ports;
use crate::secrets::Secrets;
use crate::service::Service;

/// How long a process may take until it listens: the first scheduler makes the schema before.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// What all launches of one cluster have in common.
#[derive(Debug)]
pub(crate) struct Launches {
    pub(crate) options: Options,
    pub(crate) secrets: Secrets,
    pub(crate) database_url: String,
    pub(crate) seed_file: PathBuf,
    /// Where spans go, `http://host:port` of OTLP over gRPC; none: nowhere.
    pub(crate) span_endpoint: Option<String>,
}

impl Launches {
    /// How the process `<service>-<number>` is started; `schedulers` are the URLs of those known.
    ///
    /// # Errors
    /// Its binary isn't there, or no port is free.
    pub(crate) fn of(
        &self,
        service: Service,
        number: usize,
        schedulers: &[String],
    ) -> Result<Launch> {
        let instance = format!("{service}-{number}");
        let mut env = self.common(&instance)?;
        match service {
            Service::ApiGateway => env.extend(self.gateway(schedulers)?),
            Service::Scheduler => env.extend(self.scheduler()?),
            Service::Worker => env.extend(self.worker(schedulers)),
        }
        let mut env: Vec<(String, String)> = env
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        let extra = self
            .options
            .env
            .iter()
            .filter(|extra| extra.service == service);
        env.extend(extra.map(|extra| (extra.name.clone(), extra.value.clone())));
        let own = self.options.instance_env.iter();
        let own = own.filter(|extra| extra.instance == instance);
        env.extend(own.map(|extra| (extra.name.clone(), extra.value.clone())));
        Ok(Launch {
            service,
            binary: self.options.binary(service)?,
            log: self
                .options
                .dir
                .join("logs")
                .join(format!("{instance}.log")),
            instance,
            env,
            deadline: START_DEADLINE,
        })
    }

    fn common(&self, instance: &str) -> Result<Vec<(&'static str, String)>> {
        let mut env = vec![
            ("INSTANCE_ID", instance.to_owned()),
            ("METRICS_ADDR", free_address()?),
            ("LOG_FORMAT", "json".to_owned()),
            ("SHUTDOWN_GRACE", duration(self.options.shutdown_grace)),
            ("TRACING_SAMPLE_RATE", self.options.sample_rate.to_string()),
        ];
        if let Some(endpoint) = &self.span_endpoint {
            env.push(("TRACING_ENDPOINT", endpoint.clone()));
            env.push(("TRACING_PROTOCOL", "grpc".to_owned()));
        }
        Ok(env)
    }

    fn gateway(&self, schedulers: &[String]) -> Result<Vec<(&'static str, String)>> {
        Ok(vec![
            ("LISTEN_ADDR", free_address()?),
            ("SCHEDULERS", schedulers.join(",")),
            ("SERVICE_TOKEN", self.secrets.service_token.clone()),
        ])
    }

    fn scheduler(&self) -> Result<Vec<(&'static str, String)>> {
        let address = free_address()?;
        Ok(vec![
            ("ADVERTISE_ADDRESS", format!("http://{address}")),
            ("LISTEN_ADDR", address),
            ("DATABASE_URL", self.database_url.clone()),
            ("SERVICE_TOKEN", self.secrets.service_token.clone()),
            ("SEED_FILE", self.seed_file.display().to_string()),
            ("LANES", self.options.lanes.to_string()),
            ("WORKER_LEASE", duration(self.options.worker_lease)),
            ("LANE_LEASE", duration(self.options.lane_lease)),
        ])
    }

    fn worker(&self, schedulers: &[String]) -> Vec<(&'static str, String)> {
        vec![
            ("SCHEDULERS", schedulers.join(",")),
            ("WORKER_KEY", self.secrets.worker_key.clone()),
            ("SLOTS", self.options.worker_slots.to_string()),
            ("ALLOW_COMMAND", self.options.allow_command.to_string()),
        ]
    }
}

/// Chosen here rather than by the process, so that a restart gets the same one.
fn free_address() -> Result<String> {
    Ok(format!("127.0.0.1:{}", ports::free()?))
}

fn duration(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}
