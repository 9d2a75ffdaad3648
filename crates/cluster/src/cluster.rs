//! A whole cluster: bringing it up, changing it, taking it down.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use otlp_receiver::{Receiver, ReceiverOptions};
use rustix::process::Signal;
use tokio::task::spawn_blocking;

use crate::dev_file::{DevFile, DevProcess};
use crate::directory::DirectoryLock;
use crate::launches::Launches;
use crate::member::Member;
use crate::options::Options;
use crate::postgres::Postgres;
use crate::readiness::wait_until_ready;
use crate::secrets::Secrets;
use crate::seed;
use crate::service::Service;

/// The private server's database.
const DATABASE: &str = "watchwork";
/// A new cluster's owners take their lanes within it, also after a crash of the ones before.
const READY_DEADLINE: Duration = Duration::from_secs(60);
/// What a process may need beyond its grace before it is killed.
const GRACE_MARGIN: Duration = Duration::from_secs(3);

/// PostgreSQL, a trace receiver and all processes, on this machine, on free ports of 127.0.0.1.
///
/// It ends with [`stop`](Self::stop); a drop kills the processes and stops PostgreSQL, blocking.
pub struct Cluster {
    // Dropped in this order: nobody loses what it works with.
    members: Mutex<Vec<Arc<Member>>>,
    receiver: Option<Receiver>,
    postgres: Option<Postgres>,
    launches: Launches,
    _lock: DirectoryLock,
}

impl Cluster {
    /// Brings everything up; what it answers takes traffic.
    ///
    /// # Errors
    /// The directory is in use, a binary or PostgreSQL is missing, or something doesn't start in
    /// time; the error says what, with the end of its log. What was started is stopped again.
    pub async fn start(mut options: Options) -> Result<Self> {
        ensure!(
            !options.tenants.is_empty(),
            "a cluster needs at least one tenant"
        );
        let lock = DirectoryLock::take(&options.dir, "cluster")?;
        options.dir = fs::canonicalize(&options.dir)?;
        DevFile::remove(&options.dir);
        let secrets = Secrets::keep_in(
            &options.dir,
            options.tenants.iter().map(|tenant| &*tenant.name),
        )?;
        let seed_file = seed::write(&options.dir, &options.tenants, &secrets)?;
        let (postgres, database_url) = start_database(&options).await?;
        let receiver = start_receiver(&options).await?;
        let span_endpoint = receiver
            .as_ref()
            .map(|receiver| format!("http://{}", receiver.otlp_grpc_addr));
        let cluster = Self {
            members: Mutex::default(),
            receiver,
            postgres,
            launches: Launches {
                options,
                secrets,
                database_url,
                seed_file,
                span_endpoint,
            },
            _lock: lock,
        };
        cluster.start_members().await?;
        Ok(cluster)
    }

    /// The directory that holds its data, logs and secrets.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.launches.options.dir
    }

    /// The database's URL.
    #[must_use]
    pub fn database_url(&self) -> &str {
        &self.launches.database_url
    }

    /// The private server; none if the database is somebody else's.
    #[must_use]
    pub fn postgres(&self) -> Option<&Postgres> {
        self.postgres.as_ref()
    }

    /// Where traces can be looked up (Jaeger's query API), `http://host:port`; none without a
    /// receiver.
    #[must_use]
    pub fn traces_url(&self) -> Option<String> {
        self.receiver
            .as_ref()
            .map(|receiver| format!("http://{}", receiver.http_addr))
    }

    /// The API, `http://host:port` of the first gateway; none without gateways.
    #[must_use]
    pub fn gateway_url(&self) -> Option<String> {
        self.urls(Service::ApiGateway).into_iter().next()
    }

    /// The first tenant's API key.
    #[must_use]
    pub fn key(&self) -> &str {
        self.key_of(&self.launches.options.tenants[0].name)
            .expect("start makes one for each")
    }

    /// A tenant's API key; none if there is no such tenant.
    #[must_use]
    pub fn key_of(&self, tenant: &str) -> Option<&str> {
        self.launches
            .secrets
            .tenant_keys
            .get(tenant)
            .map(String::as_str)
    }

    /// The workers' key.
    #[must_use]
    pub fn worker_key(&self) -> &str {
        &self.launches.secrets.worker_key
    }

    /// What gateways show schedulers.
    #[must_use]
    pub fn service_token(&self) -> &str {
        &self.launches.secrets.service_token
    }

    /// All processes, in the order of their start.
    #[must_use]
    pub fn members(&self) -> Vec<Arc<Member>> {
        self.list().clone()
    }

    /// One process, for example `worker-2`.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn member(&self, instance: &str) -> Result<Arc<Member>> {
        self.list()
            .iter()
            .find(|member| member.instance() == instance)
            .cloned()
            .with_context(|| format!("the cluster has no {instance}"))
    }

    /// `kill -9` of one process.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn kill(&self, instance: &str) -> Result<()> {
        self.member(instance)?.kill()
    }

    /// Starts one process again, at its old addresses, and waits until it is ready; if it still runs
    /// it is killed first.
    ///
    /// # Errors
    /// There is none of that name, or it doesn't get ready.
    pub async fn restart(&self, instance: &str) -> Result<()> {
        let member = self.member(instance)?;
        member.restart().await?;
        wait_until_ready(&member, READY_DEADLINE).await?;
        self.write_dev_file()
    }

    /// Starts one more process of a service, waits until it is ready, and tells its name.
    ///
    /// # Errors
    /// It doesn't get ready.
    pub async fn add(&self, service: Service) -> Result<String> {
        let mut added = self.start_several(service, 1).await?;
        self.write_dev_file()?;
        added.pop().context("one was asked for")
    }

    /// Ends everything in order: who brings work first, then who does it, then the schedulers, at
    /// last PostgreSQL. What doesn't end in time is killed.
    ///
    /// # Errors
    /// Something had to be killed or ended with an error; all the same everything has ended.
    pub async fn stop(mut self) -> Result<()> {
        let mut problems = Vec::new();
        for services in [
            &[Service::ApiGateway, Service::Worker][..],
            &[Service::Scheduler],
        ] {
            problems.extend(self.stop_members(services).await);
        }
        if let Some(receiver) = self.receiver.take() {
            receiver.stop().await;
        }
        if let Some(postgres) = self.postgres.take()
            && let Err(error) = spawn_blocking(move || postgres.stop()).await?
        {
            problems.push(format!("{error:#}"));
        }
        DevFile::remove(self.dir());
        ensure!(
            problems.is_empty(),
            "the cluster stopped, but: {}",
            problems.join("; ")
        );
        Ok(())
    }

    async fn start_members(&self) -> Result<()> {
        let Options {
            schedulers,
            gateways,
            workers,
            ..
        } = self.launches.options;
        self.start_several(Service::Scheduler, schedulers).await?;
        self.start_several(Service::ApiGateway, gateways).await?;
        self.start_several(Service::Worker, workers).await?;
        self.write_dev_file()
    }

    /// Starts several at once and waits until each is ready.
    async fn start_several(&self, service: Service, count: usize) -> Result<Vec<String>> {
        let schedulers = self.urls(Service::Scheduler);
        let mut started = Vec::new();
        for _ in 0..count {
            let mut members = self.list();
            let number = 1 + members
                .iter()
                .filter(|member| member.service() == service)
                .count();
            let launch = self.launches.of(service, number, &schedulers)?;
            let member = Arc::new(Member::spawn(launch)?);
            members.push(Arc::clone(&member));
            started.push(member);
        }
        for member in &started {
            member.wait_until_listening().await?;
            wait_until_ready(member, READY_DEADLINE).await?;
        }
        Ok(started
            .iter()
            .map(|member| member.instance().to_owned())
            .collect())
    }

    /// Asks all of these services to end at once, waits for them, and tells what went wrong.
    async fn stop_members(&self, services: &[Service]) -> Vec<String> {
        let mut members = self.members();
        members.retain(|member| services.contains(&member.service()) && member.alive());
        for member in &members {
            // One that ends just now needs no signal.
            let _ = member.signal(Signal::TERM).and_then(|()| member.resume());
        }
        let deadline = self.launches.options.shutdown_grace + GRACE_MARGIN;
        let mut problems = Vec::new();
        for member in members {
            problems.extend(match member.wait_for_end(deadline).await {
                Ok(status) if status.success() => None,
                Ok(status) => Some(bad_end(&member, status)),
                Err(error) => Some(format!("{error:#}")),
            });
        }
        problems
    }

    fn write_dev_file(&self) -> Result<()> {
        let tenant = &self.launches.options.tenants[0].name;
        let file = DevFile {
            pid: std::process::id(),
            gateway_url: self.gateway_url(),
            tenant: tenant.clone(),
            key: self.key().to_owned(),
            database_url: self.database_url().to_owned(),
            traces_url: self.traces_url(),
            processes: self
                .list()
                .iter()
                .map(|member| DevProcess::from(&**member))
                .collect(),
        };
        file.write(self.dir())
    }

    /// Where the processes of a service are reached.
    #[must_use]
    pub fn urls(&self, service: Service) -> Vec<String> {
        let members = self.list();
        let addresses = members.iter().filter(|member| member.service() == service);
        addresses
            .filter_map(|member| member.address())
            .map(|it| format!("http://{it}"))
            .collect()
    }

    fn list(&self) -> MutexGuard<'_, Vec<Arc<Member>>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in self.members() {
            // Here and now: somebody else may hold on to it.
            let _ = member.kill();
        }
        DevFile::remove(&self.launches.options.dir);
    }
}

async fn start_database(options: &Options) -> Result<(Option<Postgres>, String)> {
    if let Some(url) = &options.database_url {
        return Ok((None, url.clone()));
    }
    let (dir, settings): (PathBuf, _) = (options.dir.clone(), options.postgres.clone());
    let server = spawn_blocking(move || Postgres::start(&dir, settings)).await??;
    let url = server.create_database(DATABASE).await?;
    Ok((Some(server), url))
}

async fn start_receiver(options: &Options) -> Result<Option<Receiver>> {
    if !options.receiver {
        return Ok(None);
    }
    Ok(Some(Receiver::start(ReceiverOptions::default()).await?))
}

fn bad_end(member: &Member, status: ExitStatus) -> String {
    member.complaint(&format!("ended with {status}"))
}
