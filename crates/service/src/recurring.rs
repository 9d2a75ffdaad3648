//! Trouble that is met again at every look.

use std::time::Duration;

use tokio::time::Instant;

/// How long the same trouble isn't told again.
const QUIET: Duration = Duration::from_secs(60);
/// How long no trouble is told, however it changes: an outage has several words for itself.
const BREATH: Duration = Duration::from_secs(5);

/// What of a trouble is told: that it began, that it became another one, and now and then that it lasts.
#[derive(Debug, Default)]
pub struct Recurring {
    told: Option<(String, Instant)>,
}

impl Recurring {
    /// Whether this is to be told now.
    pub fn is_news(&mut self, trouble: &str) -> bool {
        let is_news = self.told.as_ref().is_none_or(|(told, at)| {
            let quiet = if told == trouble { QUIET } else { BREATH };
            at.elapsed() >= quiet
        });
        if is_news {
            self.told = Some((trouble.to_owned(), Instant::now()));
        }
        is_news
    }

    /// It is over. Says whether there was any.
    pub fn end(&mut self) -> bool {
        self.told.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn trouble_is_told_when_it_begins_when_it_changes_and_once_a_minute() {
        let mut trouble = Recurring::default();
        assert!(!trouble.end());
        assert!(trouble.is_news("refused"));
        assert!(!trouble.is_news("refused"));
        assert!(!trouble.is_news("reset"), "one word right after the other");
        tokio::time::advance(BREATH).await;
        assert!(trouble.is_news("reset"));
        tokio::time::advance(QUIET / 2).await;
        assert!(!trouble.is_news("reset"));
        tokio::time::advance(QUIET / 2).await;
        assert!(trouble.is_news("reset"));
        assert!(trouble.end());
        assert!(trouble.is_news("reset"), "it began again");
    }
}
