//! What may be asked of a list.

use domain::limits;
use proto::v1::{ExecutionState, ListExecutionsRequest};

use crate::problem::Problem;

/// Tokens are the schedulers' own and far shorter than this.
const MAX_TOKEN_CHARS: usize = 512;

/// Checks every field, puts the default of the page's size in, and names each state once.
pub(crate) fn check_list(list: &mut ListExecutionsRequest) -> Result<(), Problem> {
    if !list.queue.is_empty() {
        limits::check_name("queue", &list.queue)?;
    }
    if !list.job_type.is_empty() {
        limits::check_type_name("job_type", &list.job_type)?;
    }
    check_states(&list.states)?;
    list.states.sort_unstable();
    list.states.dedup();
    check_page_size(list.page_size)?;
    if list.page_size == 0 {
        list.page_size = limits::DEFAULT_PAGE;
    }
    check_page_token(&list.page_token)
}

fn check_states(states: &[i32]) -> Result<(), Problem> {
    let is_known = |number: &i32| {
        ExecutionState::try_from(*number).is_ok_and(|state| state != ExecutionState::Unspecified)
    };
    let Some(index) = states.iter().position(|number| !is_known(number)) else {
        return Ok(());
    };
    let message = format!("{} is no state that an execution can be in", states[index]);
    Err(Problem::invalid(format!("states[{index}]"), message))
}

fn check_page_size(size: u32) -> Result<(), Problem> {
    if size <= limits::MAX_PAGE {
        return Ok(());
    }
    let message = format!(
        "{size}; 1 to {} are allowed, 0 is the default",
        limits::MAX_PAGE
    );
    Err(Problem::invalid("page_size", message))
}

fn check_page_token(token: &str) -> Result<(), Problem> {
    let characters = token.chars().count();
    if characters <= MAX_TOKEN_CHARS {
        return Ok(());
    }
    let message = format!("{characters} characters: send the next_page_token of the page before");
    Err(Problem::invalid("page_token", message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field_at_fault(change: impl FnOnce(&mut ListExecutionsRequest)) -> String {
        let mut list = ListExecutionsRequest::default();
        change(&mut list);
        check_list(&mut list).unwrap_err().field.into_owned()
    }

    #[test]
    fn each_limit_names_its_field() {
        assert_eq!(field_at_fault(|list| list.queue.push_str("A b")), "queue");
        assert_eq!(field_at_fault(|list| list.job_type.push(' ')), "job_type");
        assert_eq!(field_at_fault(|list| list.states = vec![3, 0]), "states[1]");
        assert_eq!(field_at_fault(|list| list.states = vec![1]), "states[0]");
        assert_eq!(field_at_fault(|list| list.states = vec![-7]), "states[0]");
        assert_eq!(field_at_fault(|list| list.page_size = 501), "page_size");
        let long = "ä".repeat(513);
        assert_eq!(field_at_fault(|list| list.page_token = long), "page_token");
    }

    #[test]
    fn the_limits_themselves_are_allowed_and_a_list_without_wishes_has_a_page() {
        let mut list = ListExecutionsRequest::default();
        check_list(&mut list).unwrap();
        assert_eq!(list.page_size, 50);
        let mut list = ListExecutionsRequest {
            queue: "q".to_owned(),
            states: vec![9, 2, 9],
            job_type: "App/Mail::Send".to_owned(),
            page_size: 500,
            page_token: "ä".repeat(512),
            without_discarded: false,
        };
        check_list(&mut list).unwrap();
        assert_eq!((list.states, list.page_size), (vec![2, 9], 500));
    }
}
