insert into lane_job (lane, seq, kind, payload)
select :client_id, :tail + place, kind, payload
from unnest(array_fill('noop'::text, array[500]), array_fill('{"user":123456,"email":"someone@example.com","template":"welcome","n":1}'::jsonb, array[500]))
    with ordinality job (kind, payload, place);
with claimed as (
    insert into lane_claim (lane, lo, hi, worker)
    values (:client_id, :head, :head + 500, :client_id) returning lo, hi)
select (select string_agg(seq || kind || payload::text, ',') from lane_job
        where lane = :client_id and seq > :head and seq <= :head + 500) as bodies
from claimed \gset
insert into lane_outcome (lane, seq, state)
select :client_id, :head + place, 1 from generate_series(1, 500) place;
\set tail :tail + 500
\set head :head + 500
