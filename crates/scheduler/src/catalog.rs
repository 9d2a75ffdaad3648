use std::hash::Hash;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use domain::RetryPolicy;
use rustc_hash::FxHashMap;
use store::{ApiKey, Error, Options, Queue, SharedStorage};
use tokio::sync::watch;
use tokio::time::Instant;

/// How long the answer "there is none" is believed.
const NONE_FOR: Duration = Duration::from_secs(1);
/// How long a key's record is believed: a revoked key is refused this long after, at the latest.
const KEY_FOR: Duration = Duration::from_secs(5);
/// More entries than this and a cache begins anew: nobody may fill the memory by asking.
const MOST: usize = 100_000;

/// Names and their numbers, as far as they have been asked for. What is found never changes, so it is
/// kept; what isn't found is asked for again after a second.
pub(crate) struct Catalog {
    database: SharedStorage,
    tenants: Cache<i32, Arc<str>>,
    queues_by_name: Cache<(i32, String), Arc<Queue>>,
    queues: Cache<i32, Arc<Queue>>,
    type_numbers: Cache<(i32, String), i32>,
    types: Cache<i32, Arc<str>>,
    policies: Cache<i32, RetryPolicy>,
    policy_numbers: RwLock<Vec<(RetryPolicy, i32)>>,
    keys: Cache<String, Arc<ApiKey>>,
    options: watch::Sender<Arc<Options>>,
}

impl Catalog {
    pub(crate) fn new(database: SharedStorage) -> Self {
        Self {
            database,
            tenants: Cache::default(),
            queues_by_name: Cache::default(),
            queues: Cache::default(),
            type_numbers: Cache::default(),
            types: Cache::default(),
            policies: Cache::default(),
            policy_numbers: RwLock::default(),
            keys: Cache::default(),
            options: watch::Sender::default(),
        }
    }

    /// Forgets all answers: the database may have lost what they are about, and give their numbers again.
    pub(crate) fn forget(&self) {
        self.tenants.forget();
        self.queues_by_name.forget();
        self.queues.forget();
        self.type_numbers.forget();
        self.types.forget();
        self.policies.forget();
        self.keys.forget();
        let mut numbers = self
            .policy_numbers
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        numbers.clear();
    }

    pub(crate) async fn tenant(&self, number: i32) -> Result<Option<Arc<str>>, Error> {
        let find = async || Ok(self.database.tenant_name(number).await?.map(Arc::from));
        self.tenants.get(number, find).await
    }

    pub(crate) async fn queue_by_name(
        &self,
        tenant: i32,
        name: &str,
    ) -> Result<Option<Arc<Queue>>, Error> {
        let find = async || {
            Ok(self
                .database
                .queue_by_name(tenant, name)
                .await?
                .map(Arc::new))
        };
        self.queues_by_name
            .get((tenant, name.to_owned()), find)
            .await
    }

    pub(crate) async fn queue(&self, number: i32) -> Result<Option<Arc<Queue>>, Error> {
        let find = async || Ok(self.database.queue_by_number(number).await?.map(Arc::new));
        self.queues.get(number, find).await
    }

    /// The number of a job type that some worker announced.
    pub(crate) async fn type_number(&self, tenant: i32, name: &str) -> Result<Option<i32>, Error> {
        let find = async || self.database.type_number(tenant, name).await;
        self.type_numbers.get((tenant, name.to_owned()), find).await
    }

    pub(crate) async fn job_type(&self, number: i32) -> Result<Option<Arc<str>>, Error> {
        let find = async || Ok(self.database.type_name(number).await?.map(Arc::from));
        self.types.get(number, find).await
    }

    pub(crate) async fn policy(&self, number: i32) -> Result<Option<RetryPolicy>, Error> {
        self.policies
            .get(number, async || self.database.policy(number).await)
            .await
    }

    /// The number of a policy; an unknown one gets one.
    pub(crate) async fn policy_number(&self, policy: &RetryPolicy) -> Result<i32, Error> {
        if let Some(number) = self.known_policy(policy) {
            return Ok(number);
        }
        let number = self.database.policy_number(policy).await?;
        let mut known = self
            .policy_numbers
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        // A short list is searched faster than a map; a long one means that each policy is used once.
        if known.len() >= 256 {
            known.clear();
        }
        known.push((*policy, number));
        Ok(number)
    }

    fn known_policy(&self, policy: &RetryPolicy) -> Option<i32> {
        let known = self
            .policy_numbers
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        known
            .iter()
            .find(|(known, _)| known == policy)
            .map(|(_, number)| *number)
    }

    pub(crate) async fn key(&self, id: &str) -> Result<Option<Arc<ApiKey>>, Error> {
        let find = async || Ok(self.database.key(id).await?.map(Arc::new));
        self.keys.get_for(id.to_owned(), KEY_FOR, find).await
    }

    /// The options of queues and tenants, as they were read last.
    pub(crate) fn options(&self) -> Arc<Options> {
        Arc::clone(&self.options.borrow())
    }

    /// Reads the options of queues and tenants.
    pub(crate) async fn read_options(&self) -> Result<(), Error> {
        let read = self.database.options().await?;
        let changed = |known: &mut Arc<Options>| {
            let changes = **known != read;
            if changes {
                *known = Arc::new(read);
            }
            changes
        };
        self.options.send_if_modified(changed);
        Ok(())
    }

    /// Makes job types known; a worker that serves all tenants announces them as tenant 0.
    pub(crate) async fn announce(&self, tenant: i32, names: &[String]) -> Result<(), Error> {
        self.database.announce_types(tenant, names).await
    }
}

/// Answers of the database, and until when each is believed.
struct Cache<K, V> {
    entries: RwLock<FxHashMap<K, Answer<V>>>,
}

/// What was found, or that nothing was; and until when that is believed, `None` for good.
type Answer<V> = (Option<V>, Option<Instant>);

impl<K, V> Default for Cache<K, V> {
    fn default() -> Self {
        Self {
            entries: RwLock::default(),
        }
    }
}

impl<K: Hash + Eq, V: Clone> Cache<K, V> {
    async fn get<F>(&self, key: K, find: F) -> Result<Option<V>, Error>
    where
        F: AsyncFnOnce() -> Result<Option<V>, Error>,
    {
        self.find(key, None, find).await
    }

    async fn get_for<F>(&self, key: K, lasts: Duration, find: F) -> Result<Option<V>, Error>
    where
        F: AsyncFnOnce() -> Result<Option<V>, Error>,
    {
        self.find(key, Some(lasts), find).await
    }

    async fn find<F>(&self, key: K, lasts: Option<Duration>, find: F) -> Result<Option<V>, Error>
    where
        F: AsyncFnOnce() -> Result<Option<V>, Error>,
    {
        if let Some(known) = self.fresh(&key) {
            return Ok(known);
        }
        let found = find().await?;
        let until = if found.is_some() {
            lasts
        } else {
            Some(NONE_FOR)
        };
        let until = until.map(|lasts| Instant::now() + lasts);
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= MOST {
            entries.clear();
        }
        entries.insert(key, (found.clone(), until));
        Ok(found)
    }

    fn forget(&self) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        entries.clear();
    }

    fn fresh(&self, key: &K) -> Option<Option<V>> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let (value, until) = entries.get(key)?;
        until
            .is_none_or(|until| Instant::now() < until)
            .then(|| value.clone())
    }
}
