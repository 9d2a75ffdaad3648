//! Counts the fields of a message while its bytes come in, before anything is made of them: eight million bytes
//! may be four million empty items, each of which would take a few hundred bytes of memory.
//!
//! It knows as much of protobuf's encoding as it needs to skip values
//! (<https://protobuf.dev/programming-guides/encoding/>). What it can't read it leaves to the decoder to refuse.

/// Before a message: a byte that says whether it is compressed, and its length in four, the highest first.
const GRPC_PREFIX: u64 = 5;

/// How values are encoded, by the last three bits of a field's key.
const VARINT: u64 = 0;
const FIXED_64: u64 = 1;
const LENGTH_DELIMITED: u64 = 2;
const FIXED_32: u64 = 5;

/// The fields that came so far of a call's one message, and of the messages that are its field 1.
#[derive(Debug)]
pub(crate) struct FieldCount {
    next: Next,
    /// Bytes that came so far.
    at: u64,
    /// Where the message within the message ends that is being read.
    inner_end: u64,
    /// The message's bytes, as what comes before it says; what is there of that so far.
    pub(crate) length: u32,
    /// Fields of the message itself.
    pub(crate) outer: u64,
    /// Fields of the messages in it.
    pub(crate) inner: u64,
}

/// What comes next.
#[derive(Clone, Copy, Debug)]
enum Next {
    /// What comes before the message.
    Prefix,
    /// A field's key, or the rest of it.
    Key(Varint),
    /// The rest of a number.
    Number,
    /// How long a value is, or the rest of it.
    Length(Varint, Value),
    /// So many bytes that tell nothing.
    Skipped(u64),
    /// Something that is no protobuf.
    Unreadable,
}

#[derive(Clone, Copy, Debug)]
enum Value {
    /// A message whose fields count too.
    Message,
    /// Bytes.
    Opaque,
}

impl FieldCount {
    pub(crate) fn new() -> Self {
        Self {
            next: Next::Prefix,
            at: 0,
            inner_end: 0,
            length: 0,
            outer: 0,
            inner: 0,
        }
    }

    /// More bytes of the call's body.
    pub(crate) fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let read = match self.next {
                Next::Unreadable => return,
                Next::Prefix => {
                    self.next = self.after_prefix_byte(bytes[0]);
                    1
                }
                Next::Skipped(left) => {
                    let skipped = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    self.next = skip(left - skipped as u64);
                    skipped
                }
                Next::Key(varint) => {
                    self.next = self.after_key_byte(varint, bytes[0]);
                    1
                }
                Next::Number if bytes[0] & 0x80 != 0 => 1,
                Next::Number => {
                    self.next = Next::Key(Varint::default());
                    1
                }
                Next::Length(varint, value) => {
                    self.next = self.after_length_byte(varint, value, bytes[0]);
                    1
                }
            };
            self.at += read as u64;
            bytes = &bytes[read..];
        }
    }

    fn after_prefix_byte(&mut self, byte: u8) -> Next {
        if self.at > 0 {
            self.length = self.length << 8 | u32::from(byte);
        }
        match self.at + 1 {
            GRPC_PREFIX => Next::Key(Varint::default()),
            _ => Next::Prefix,
        }
    }

    fn after_key_byte(&mut self, varint: Varint, byte: u8) -> Next {
        let key = match varint.with(byte) {
            Read::Partly(varint) => return Next::Key(varint),
            Read::TooLong => return Next::Unreadable,
            Read::Whole(key) => key,
        };
        let is_inner = self.at < self.inner_end;
        *(if is_inner {
            &mut self.inner
        } else {
            &mut self.outer
        }) += 1;
        match key & 7 {
            VARINT => Next::Number,
            FIXED_64 => skip(8),
            FIXED_32 => skip(4),
            LENGTH_DELIMITED if !is_inner && key >> 3 == 1 => {
                Next::Length(Varint::default(), Value::Message)
            }
            LENGTH_DELIMITED => Next::Length(Varint::default(), Value::Opaque),
            _ => Next::Unreadable,
        }
    }

    fn after_length_byte(&mut self, varint: Varint, value: Value, byte: u8) -> Next {
        match (varint.with(byte), value) {
            (Read::Partly(varint), _) => Next::Length(varint, value),
            (Read::TooLong, _) => Next::Unreadable,
            (Read::Whole(length), Value::Opaque) => skip(length),
            (Read::Whole(length), Value::Message) => {
                self.inner_end = (self.at + 1).saturating_add(length);
                Next::Key(Varint::default())
            }
        }
    }
}

fn skip(bytes: u64) -> Next {
    match bytes {
        0 => Next::Key(Varint::default()),
        _ => Next::Skipped(bytes),
    }
}

/// A number of which some bytes have come, seven bits in each, the lowest first.
#[derive(Clone, Copy, Default, Debug)]
struct Varint {
    value: u64,
    bits: u32,
}

enum Read {
    Partly(Varint),
    Whole(u64),
    TooLong,
}

impl Varint {
    fn with(self, byte: u8) -> Read {
        if self.bits >= u64::BITS {
            return Read::TooLong;
        }
        let value = self.value | u64::from(byte & 0x7f) << self.bits;
        let bits = self.bits + 7;
        match byte & 0x80 {
            0 => Read::Whole(value),
            _ => Read::Partly(Self { value, bits }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use bytes::{BufMut as _, Bytes};
    use prost::Message as _;
    use proto::v1::{Submission, SubmitBatchRequest};

    use super::*;

    fn body(message: &[u8]) -> Vec<u8> {
        let mut body = vec![0];
        body.put_u32(u32::try_from(message.len()).unwrap());
        body.extend_from_slice(message);
        body
    }

    fn count(body: &[u8], frame: usize) -> (u64, u64) {
        let mut count = FieldCount::new();
        body.chunks(frame).for_each(|frame| count.read(frame));
        assert_eq!(count.length as usize, body.len() - 5);
        (count.outer, count.inner)
    }

    fn submission(headers: usize) -> Submission {
        let name = |number| (format!("h{number}"), String::new());
        Submission {
            job_type: "a.b".to_owned(),
            priority: 3,
            payload: Bytes::from(vec![0x0a; 300]),
            headers: (0..headers).map(name).collect::<HashMap<_, _>>(),
            timeout: Some(prost_types::Duration {
                seconds: 1,
                nanos: 2,
            }),
            ..Submission::default()
        }
    }

    #[test]
    fn fields_of_a_batch_and_of_its_items_are_counted_however_they_are_framed() {
        let submissions = vec![submission(0), Submission::default(), submission(7)];
        let body = body(&SubmitBatchRequest { submissions }.encode_to_vec());
        for frame in [1, 2, 7, 300, body.len()] {
            assert_eq!(count(&body, frame), (3, 15), "frames of {frame}");
        }
    }

    #[test]
    fn empty_items_count_each() {
        assert_eq!(count(&body(&[0x0a, 0].repeat(1000)), 333), (1000, 0));
    }

    #[test]
    fn what_is_no_protobuf_is_left_to_the_decoder() {
        let endless_key = [0xff; 20];
        let group = [0x0b, 0x0a, 0];
        let beyond_its_end = [0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f, 0x12, 0x7f];
        for message in [&endless_key[..], &group, &beyond_its_end, &[0x0a]] {
            let (outer, inner) = count(&body(message), 3);
            assert!(outer + inner <= 2, "{message:?}");
        }
    }
}
