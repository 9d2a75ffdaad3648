use std::io::IsTerminal as _;
use std::time::{Duration, SystemTime};

use domain::limits;
use proto::v1::{ExecutionState, ExecutionSummary, ListExecutionsRequest};

use crate::args::ListArgs;
use crate::client::Client;
use crate::failure::Failure;
use crate::output::Output;
use crate::summary_view::{HEAD, SummaryView, row};
use crate::text::{self, Columns};

/// How often a list that is watched is shown again.
const REFRESH: Duration = Duration::from_secs(2);
/// Clears a terminal, and goes to its upper left corner.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// Lists executions, the newest first.
pub(crate) async fn list(output: &Output, client: &Client, args: &ListArgs) -> Result<(), Failure> {
    if args.watch {
        return watch(output, client, args).await;
    }
    let mut pages = Pages::new(client, args);
    let mut columns = Columns::default();
    // With the first page: an error has no table, and the head is as wide as what stands below it.
    let mut head = vec![HEAD.map(str::to_owned).to_vec()];
    while let Some(page) = pages.next().await? {
        show(output, &mut columns, std::mem::take(&mut head), &page)?;
    }
    if pages.shown == 0 && !output.is_json() {
        eprintln!("watchwork: there is none");
    }
    if pages.more_follow() {
        eprintln!("watchwork: more follow: --limit N shows so many, --all shows all");
    }
    Ok(())
}

fn show(
    output: &Output,
    columns: &mut Columns,
    mut rows: Vec<Vec<String>>,
    page: &[ExecutionSummary],
) -> Result<(), Failure> {
    if output.is_json() {
        for summary in page {
            output.json(&SummaryView::from(summary))?;
        }
        return Ok(());
    }
    let now = SystemTime::now();
    rows.extend(page.iter().map(|summary| row(summary, now)));
    Ok(output.text(&columns.lines(&rows))?)
}

/// Shows the list again and again: on a terminal in its place, elsewhere one below the other.
async fn watch(output: &Output, client: &Client, args: &ListArgs) -> Result<(), Failure> {
    if output.is_json() {
        let hint = "--watch is for people; a program lists again, or watches executions by id";
        return Err(Failure::usage(hint));
    }
    let clear = match std::io::stdout().is_terminal() {
        true => CLEAR,
        false => "",
    };
    loop {
        let mut pages = Pages::new(client, args);
        let mut rows = vec![HEAD.map(str::to_owned).to_vec()];
        while let Some(page) = pages.next().await? {
            let now = SystemTime::now();
            rows.extend(page.iter().map(|summary| row(summary, now)));
        }
        let more = match pages.more_follow() {
            true => ", more follow",
            false => "",
        };
        let (time, table) = (text::time_of_day(), text::table(&rows));
        output.text(&format!("{clear}{time}{more}\n\n{table}\n"))?;
        tokio::time::sleep(REFRESH).await;
    }
}

/// A list's pages, up to its limit.
pub(super) struct Pages<'a> {
    client: &'a Client,
    /// What the next page is asked with.
    request: ListExecutionsRequest,
    /// How many executions may still come; `None`: all there are.
    room: Option<usize>,
    /// How many executions came.
    shown: usize,
    is_last: bool,
}

impl<'a> Pages<'a> {
    pub(super) fn new(client: &'a Client, args: &ListArgs) -> Self {
        let states = args.states.iter();
        let request = ListExecutionsRequest {
            queue: args.queue.clone().unwrap_or_default(),
            states: states
                .map(|state| ExecutionState::from(*state) as i32)
                .collect(),
            job_type: args.job_type.clone().unwrap_or_default(),
            without_discarded: args.without_discarded,
            ..ListExecutionsRequest::default()
        };
        let room = (!args.all).then_some(args.limit as usize);
        Self {
            client,
            request,
            room,
            shown: 0,
            is_last: false,
        }
    }

    /// The next page, which may be empty though more follow; `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<ExecutionSummary>>, Failure> {
        if self.is_last || self.room == Some(0) {
            return Ok(None);
        }
        let room = self.room.and_then(|room| u32::try_from(room).ok());
        self.request.page_size = room.map_or(limits::MAX_PAGE, |room| room.min(limits::MAX_PAGE));
        let page = self.client.list(self.request.clone()).await?;
        self.room = self
            .room
            .map(|room| room.saturating_sub(page.executions.len()));
        self.shown += page.executions.len();
        self.is_last = page.next_page_token.is_empty();
        self.request.page_token = page.next_page_token;
        Ok(Some(page.executions))
    }

    /// Whether the limit cut the list off.
    fn more_follow(&self) -> bool {
        !self.is_last
    }
}
