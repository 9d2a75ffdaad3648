//! Answers that may be a few seconds old: a bounded cache in which one question at a time is out
//! for each key, and a failed one is forgotten.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};

use crate::problem::Problem;

/// A question that nobody has polled to its end after so long was abandoned.
const ABANDONED: Duration = Duration::from_secs(10);

/// Values by key, each for as long as `lifetime` says of it, counted from before it was asked for.
pub(crate) struct Fresh<K, V> {
    questions: Mutex<HashMap<K, Question<V>>>,
    capacity: usize,
    lifetime: fn(&V) -> Duration,
}

struct Question<V> {
    asked: Instant,
    answer: Shared<BoxFuture<'static, Result<V, Problem>>>,
}

impl<K, V> Fresh<K, V>
where
    K: Eq + Hash,
    V: Clone + Send + Sync + 'static,
{
    pub(crate) fn new(capacity: usize, lifetime: fn(&V) -> Duration) -> Self {
        Self {
            questions: Mutex::default(),
            capacity,
            lifetime,
        }
    }

    /// The value of `key`: known, being asked for by somebody else, or asked for now.
    pub(crate) async fn get<F>(&self, key: K, ask: impl FnOnce(&K) -> F) -> Result<V, Problem>
    where
        F: Future<Output = Result<V, Problem>> + Send + 'static,
    {
        let answer = {
            let mut questions = self
                .questions
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            match questions.get(&key) {
                Some(question) if self.is_fresh(question) => match question.answer.peek() {
                    Some(known) => return known.clone(),
                    None => question.answer.clone(),
                },
                _ => {
                    self.make_room(&mut questions);
                    let answer = ask(&key).boxed().shared();
                    let question = Question {
                        asked: Instant::now(),
                        answer: answer.clone(),
                    };
                    questions.insert(key, question);
                    answer
                }
            }
        };
        answer.await
    }

    fn is_fresh(&self, question: &Question<V>) -> bool {
        let age = question.asked.elapsed();
        match question.answer.peek() {
            Some(Ok(value)) => age < (self.lifetime)(value),
            Some(Err(_)) => false,
            None => age < ABANDONED,
        }
    }

    /// Sweeps when full. If nearly everything is fresh, all of it goes: that costs each key one
    /// question, and no flood of keys can make every insertion a sweep.
    fn make_room(&self, questions: &mut HashMap<K, Question<V>>) {
        if questions.len() < self.capacity {
            return;
        }
        questions.retain(|_, question| self.is_fresh(question));
        if questions.len() > self.capacity / 2 {
            questions.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn counted(
        asked: &Arc<AtomicUsize>,
        answer: Result<u32, Problem>,
    ) -> impl Future<Output = Result<u32, Problem>> + Send + 'static {
        asked.fetch_add(1, Ordering::SeqCst);
        async move {
            tokio::task::yield_now().await;
            answer
        }
    }

    #[tokio::test]
    async fn callers_at_the_same_time_share_one_question() {
        let cache = Fresh::new(10, |_: &u32| Duration::from_secs(60));
        let asked = Arc::new(AtomicUsize::new(0));
        let callers = (0..8).map(|_| cache.get("key", |_| counted(&asked, Ok(7))));
        for answer in futures::future::join_all(callers).await {
            assert_eq!(answer, Ok(7));
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_failed_question_is_asked_again() {
        let cache = Fresh::new(10, |_: &u32| Duration::from_secs(60));
        let asked = Arc::new(AtomicUsize::new(0));
        let failure = Problem::try_again("NO_SCHEDULER", "none");
        let first = cache
            .get("key", |_| counted(&asked, Err(failure.clone())))
            .await;
        assert_eq!(first, Err(failure));
        assert_eq!(cache.get("key", |_| counted(&asked, Ok(7))).await, Ok(7));
    }

    #[tokio::test]
    async fn an_old_answer_is_asked_for_again() {
        let cache = Fresh::new(10, |_: &u32| Duration::ZERO);
        let asked = Arc::new(AtomicUsize::new(0));
        for answer in [1, 2] {
            assert_eq!(
                cache.get("key", |_| counted(&asked, Ok(answer))).await,
                Ok(answer)
            );
        }
    }

    #[tokio::test]
    async fn it_never_holds_more_than_its_capacity() {
        let cache = Fresh::new(10, |_: &u32| Duration::from_secs(60));
        let asked = Arc::new(AtomicUsize::new(0));
        for key in 0..1_000 {
            cache.get(key, |_| counted(&asked, Ok(0))).await.unwrap();
            assert!(cache.questions.lock().unwrap().len() <= 10);
        }
    }
}
