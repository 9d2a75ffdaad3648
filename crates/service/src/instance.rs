//! The name of one instance.

use anyhow::bail;

use crate::process::ServiceName;

const MAX_LEN: usize = 128;

/// The `given` instance id if it is legal, else one made of service, host and chance.
///
/// # Errors
/// If the given one breaks the rule.
pub(crate) fn resolve_instance_id(
    service: ServiceName,
    given: Option<&str>,
) -> anyhow::Result<String> {
    match given.filter(|given| !given.is_empty()) {
        Some(given) if is_legal(given) => Ok(given.to_owned()),
        Some(given) => {
            bail!("INSTANCE_ID {given:?} isn't of the form [a-z0-9][a-z0-9._-]{{0,127}}")
        }
        None => {
            let host = rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned();
            Ok(generated(service, &host, rand::random()))
        }
    }
}

fn generated(service: ServiceName, host: &str, chance: u16) -> String {
    // A host name has up to 255 bytes.
    let host: String = host
        .to_ascii_lowercase()
        .chars()
        .filter(|&c| is_legal_inside(c))
        .take(64)
        .collect();
    format!("{service}-{host}-{chance:04x}")
}

fn is_legal(id: &str) -> bool {
    id.len() <= MAX_LEN
        && id.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && id.chars().all(is_legal_inside)
}

fn is_legal_inside(c: char) -> bool {
    matches!(c, 'a'..='z' | '0'..='9' | '.' | '_' | '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_id_keeps_the_rule_whatever_the_host_is_called() {
        for host in ["node-1", "Büro_PC", "", &"x".repeat(255)] {
            let id = generated(ServiceName::Scheduler, host, 0xa);
            assert!(is_legal(&id), "{id:?}");
            assert!(id.ends_with("-000a"));
        }
    }

    #[test]
    fn an_illegal_id_is_refused_and_an_empty_one_counts_as_not_given() {
        for illegal in ["-a", "A", "a b", "a/b", &"a".repeat(129)] {
            assert!(
                resolve_instance_id(ServiceName::Worker, Some(illegal)).is_err(),
                "{illegal}"
            );
        }
        assert_eq!(
            resolve_instance_id(ServiceName::Worker, Some("w.0_1-a")).unwrap(),
            "w.0_1-a"
        );
        assert!(
            resolve_instance_id(ServiceName::Worker, Some(""))
                .unwrap()
                .starts_with("worker-")
        );
    }
}
