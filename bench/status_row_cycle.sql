insert into status_job (kind, payload)
select kind, payload
from unnest(array_fill('noop'::text, array[500]), array_fill('{"user":123456,"email":"someone@example.com","template":"welcome","n":1}'::jsonb, array[500])) job (kind, payload);
with claimed as (
    update status_job set state = 1, attempt = attempt + 1, started_at = now(), worker = :client_id
    where id in (
        select id from status_job where state = 0 and queue = 0 and run_at <= now()
        order by priority, run_at, id limit 500 for update skip locked)
    returning id, kind, payload)
select coalesce(array_agg(id)::text, '{}') as ids, string_agg(kind || payload::text, ',') as bodies
from claimed \gset
update status_job set state = 2, finished_at = now() where id = any(:ids::int8[]) and state = 1;
