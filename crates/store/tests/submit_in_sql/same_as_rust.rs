//! What SQL computes as Rust does, tried on random values.

use domain::{ExecutionId, IdKey, LaneId, Micros, ToDo, key_hash};
use uuid::Uuid;

use crate::shop::{bare, run};

#[tokio::test]
async fn ids_are_the_same() {
    const IDS: &str = "select id_key, lane, seq, (extract(epoch from home) * 1000000)::int8,
             watchwork.execution_id(id_key, lane, seq, home)
         from (select uuid_send(gen_random_uuid()) as id_key, floor(random() * 4096)::int2 as lane,
                 8796093022208 + floor(random() * 8796093022208)::int8 as seq,
                 to_timestamp(random() * 8e9) as home
             from generate_series(1, 2000)) r";
    let (_fresh, _, mut connection) = bare().await;
    let ids: Vec<(Vec<u8>, i16, i64, i64, Uuid)> = sqlx::query_as(IDS)
        .fetch_all(&mut connection)
        .await
        .unwrap();
    for (key, lane, seq, home, id) in ids {
        let key = IdKey::new(key.try_into().unwrap());
        let lane = LaneId(lane.try_into().unwrap());
        let ours = ExecutionId::new(lane, seq.try_into().unwrap(), Micros(home), &key);
        assert_eq!(
            ExecutionId::from_bytes(id.into_bytes()),
            ours,
            "{lane} {seq} {home}"
        );
    }
}

#[tokio::test]
async fn keys_and_fingerprints_are_the_same() {
    type Computed = (i32, String, String, Option<i64>, Vec<u8>, Uuid, i64);
    const HASHES: &str = "select n, one, two, (extract(epoch from due) * 1000000)::int8, payload,
             watchwork.idempotency_key(n, one || two),
             watchwork.idempotency_fingerprint(n, one, two, due, payload)
         from (select floor(random() * 2147483647)::int4 as n, random_text(g) as one,
                 random_text(g) as two, convert_to(random_text(g), 'UTF8') as payload,
                 case when random() < 0.8 then to_timestamp(random() * 8e9) end as due
             from generate_series(1, 2000) g) r";
    let (_fresh, _, mut connection) = bare().await;
    run(
        &mut connection,
        "create function random_text(int4) returns text language sql as $$
                 select coalesce(string_agg(chr(1 + floor(random() * 55000)::int4), ''), '')
                 from generate_series(1, floor(random() * 12)::int4)
             $$",
    )
    .await;
    let hashes: Vec<Computed> = sqlx::query_as(HASHES)
        .fetch_all(&mut connection)
        .await
        .unwrap();
    assert!(hashes.iter().any(|hash| hash.3.is_none()));
    assert!(
        hashes
            .iter()
            .any(|hash| hash.1.is_empty() && !hash.2.is_empty())
    );
    for (number, one, two, due, payload, key, fingerprint) in hashes {
        let to_do = ToDo {
            queue: number,
            job_type: &one,
            content_type: &two,
            due: due.map(Micros),
            payload: &payload,
        };
        assert_eq!(to_do.fingerprint(), fingerprint, "{to_do:?}");
        let both = format!("{one}{two}");
        assert_eq!(
            key_hash(number, &both),
            key.into_bytes(),
            "{number} {both:?}"
        );
    }
}
