//! Page tokens: a place in a list, and which list it belongs to.

use domain::{ExecutionState, LaneId, ListMark, Micros};
use sha2::{Digest, Sha256};
use tonic::Status;

/// Which layout a token has: a later one may have another.
const LAYOUT: u8 = 1;
/// Layout, fingerprint, time, lane, number.
const BYTES: usize = 1 + 8 + 8 + 2 + 8;

/// Of everything that a list is filtered by: the first 64 bits of SHA-256, each text behind its length.
pub(super) fn fingerprint(
    tenant: i32,
    queue: &str,
    states: &[ExecutionState],
    job_type: &str,
) -> u64 {
    let length = |text: &str| (text.len() as u64).to_be_bytes();
    let states: Vec<u8> = states.iter().map(|state| *state as u8).collect();
    let hash = Sha256::new()
        .chain_update(tenant.to_be_bytes())
        .chain_update(length(queue))
        .chain_update(queue)
        .chain_update(length(job_type))
        .chain_update(job_type)
        .chain_update(states)
        .finalize();
    let mut first = [0; 8];
    first.copy_from_slice(&hash[..8]);
    u64::from_be_bytes(first)
}

/// A token for what comes after a place of a list.
pub(super) fn write(mark: ListMark, fingerprint: u64) -> String {
    let mut bytes = Vec::with_capacity(BYTES);
    bytes.push(LAYOUT);
    bytes.extend(fingerprint.to_be_bytes());
    bytes.extend(mark.at.0.to_be_bytes());
    bytes.extend(mark.lane.0.to_be_bytes());
    bytes.extend(mark.seq.to_be_bytes());
    hex::encode(bytes)
}

/// The place that a token tells, if it belongs to the list of this fingerprint.
pub(super) fn read(token: &str, fingerprint: u64) -> Result<ListMark, Status> {
    let refused = |why: &str| Status::invalid_argument(format!("page_token: {why}"));
    let mut bytes = [0; BYTES];
    let is_one = hex::decode_to_slice(token, &mut bytes).is_ok() && bytes[0] == LAYOUT;
    if !is_one {
        return Err(refused(
            "it is no token: send the next_page_token of the page before",
        ));
    }
    let number = |from: usize| {
        let mut number = [0; 8];
        number.copy_from_slice(&bytes[from..from + 8]);
        u64::from_be_bytes(number)
    };
    if number(1) != fingerprint {
        return Err(refused(
            "it belongs to a list of another queue, states or type",
        ));
    }
    let mark = ListMark {
        at: Micros(number(9).cast_signed()),
        lane: LaneId(u16::from_be_bytes([bytes[17], bytes[18]])),
        seq: number(19),
    };
    // Anybody can write a token: what no list reaches would be refused by the database.
    let reached = mark.lane < ListMark::BEGIN.lane && mark.seq < ListMark::BEGIN.seq;
    match reached && (ListMark::END..ListMark::BEGIN).contains(&mark) {
        true => Ok(mark),
        false => Err(refused("it tells a place that is in no list")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ExecutionState::{Failed, Queued, Running};

    fn mark(at: i64, lane: u16, seq: u64) -> ListMark {
        let (at, lane) = (Micros(at), LaneId(lane));
        ListMark { at, lane, seq }
    }

    #[test]
    fn a_token_tells_its_place_to_the_list_that_it_belongs_to() {
        let print = fingerprint(1, "mail", &[Queued], "send");
        for mark in [
            mark(1_790_000_000_000_001, 63, 1 << 43),
            mark(0, 0, 1),
            mark(253_402_300_799_999_999, 4_095, (1 << 44) - 1),
        ] {
            assert_eq!(read(&write(mark, print), print).unwrap(), mark);
        }
    }

    #[test]
    fn a_token_of_another_filter_is_refused() {
        let prints = [
            fingerprint(1, "mail", &[Queued], "send"),
            fingerprint(2, "mail", &[Queued], "send"),
            fingerprint(1, "", &[Queued], "send"),
            fingerprint(1, "mails", &[Queued], "end"),
            fingerprint(1, "mail", &[], "send"),
            fingerprint(1, "mail", &[Queued, Running], "send"),
            fingerprint(1, "mail", &[Failed], "send"),
            fingerprint(1, "mail", &[Queued], ""),
        ];
        for (place, print) in prints.iter().enumerate() {
            let token = write(mark(1, 2, 3), *print);
            for other in &prints[..place] {
                let refused = read(&token, *other).unwrap_err();
                assert_eq!(refused.code(), tonic::Code::InvalidArgument);
            }
        }
    }

    #[test]
    fn what_is_no_token_is_refused_and_so_is_a_place_beyond_all_lists() {
        let token = write(mark(1, 2, 3), 7);
        let nonsense = ["x", "00", &token[2..], &format!("02{}", &token[2..])];
        let beyond = [
            mark(-1, 0, 0),
            mark(i64::MAX, 0, 0),
            mark(1, 4_096, 0),
            mark(1, 1, u64::MAX),
        ];
        let beyond = beyond.map(|mark| write(mark, 7));
        let beyond = beyond.iter().map(String::as_str);
        for token in nonsense.into_iter().chain(beyond) {
            let refused = read(token, 7).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{token}");
        }
    }
}
