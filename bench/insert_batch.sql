insert into status_job (kind, payload)
select kind, payload
from unnest(array_fill('noop'::text, array[500]), array_fill('{"user":123456,"email":"someone@example.com","template":"welcome","n":1}'::jsonb, array[500])) job (kind, payload);
