-- watchwork.submit(): an execution is handed in within a transaction of the caller's own. For those who call
-- it there is docs/submitting-in-a-transaction.md; all else in this schema is its parts.
do $$
begin
    if to_regnamespace('watchwork') is null then
        create schema watchwork;
    end if;
end $$;

-- The usual retry policy is there from the start, so that no open transaction is ever the first to name it:
-- whoever else names it would wait for that.
insert into retry_policy (max_attempts, initial_us, multiplier, max_us, jitter)
    values (5, 2000000, 2, 3600000000, true) on conflict do nothing;

-- Times, ids and hashes, to the bit as domain makes them. Those in SQL are as volatile as what they are made
-- of, or they wouldn't be inlined.

create function watchwork.micros(at timestamptz) returns int8 language sql stable as $$
    select (extract(epoch from at) * 1000000)::int8
$$;

create function watchwork.micros(span interval) returns int8 language sql immutable as $$
    select (extract(epoch from span) * 1000000)::int8
$$;

create function watchwork.hour(at timestamptz) returns int4 language sql stable as $$
    select floor(extract(epoch from at) / 3600)::int4
$$;

-- domain::ExecutionId, of a number that ext_seq gave.
create function watchwork.execution_id(id_key bytea, lane int2, seq int8, home timestamptz) returns uuid
language plpgsql immutable as $$
declare
    high int8  := (floor(extract(epoch from home) * 1000)::int8 << 16) | 32768 | lane;
    low  int8  := (1::int8 << 63) | (seq << 18);
    hash bytea := sha256(id_key || int8send(high) || int8send(low));
    tag  int4  := ((get_byte(hash, 0) << 16) | (get_byte(hash, 1) << 8) | get_byte(hash, 2)) & 262143;
begin
    return encode(int8send(high) || int8send(low | tag), 'hex')::uuid;
end $$;

-- domain::key_hash.
create function watchwork.idempotency_key(tenant int4, key text) returns uuid language sql stable as $$
    select encode(substr(sha256(int4send(tenant) || convert_to(key, 'UTF8')), 1, 16), 'hex')::uuid
$$;

-- domain::ToDo::fingerprint.
create function watchwork.idempotency_fingerprint(
    queue int4, job_type text, content_type text, due_at timestamptz, payload bytea
) returns int8 language sql stable as $$
    select ('x' || encode(substr(sha256(
        int4send(queue)
        || int4send(octet_length(job_type)) || convert_to(job_type, 'UTF8')
        || int4send(octet_length(content_type)) || convert_to(content_type, 'UTF8')
        || int8send(coalesce(watchwork.micros(due_at), 0))
        || payload
    ), 1, 8), 'hex'))::bit(64)::int8
$$;

-- Whose turn it is among a queue's lanes: one key's is always the same, the one that gateways choose.
create function watchwork.turn(key text, seq int8) returns int8 language sql stable as $$
    select case when key is null then seq
        else get_byte(sha256(convert_to(key, 'UTF8')), 0) * 256 + get_byte(sha256(convert_to(key, 'UTF8')), 1)
    end
$$;

-- Errors. The column of one is the field at fault.

create function watchwork.refuse(field text, problem text) returns void language plpgsql as $$
begin
    raise exception '%: %', field, problem using errcode = 'invalid_parameter_value', column = field;
end $$;

create function watchwork.unknown(field text, problem text) returns void language plpgsql as $$
begin
    raise exception '%: %', field, problem using errcode = 'WW404', column = field;
end $$;

create function watchwork.not_ready() returns void language plpgsql as $$
begin
    raise exception 'no scheduler has made the database ready for this hour'
        using errcode = 'WW503', hint = 'Does a scheduler run?';
end $$;

-- A value as an error may show it: short.
create function watchwork.shown(value text) returns text language sql immutable as $$
    select to_json(left(value, 40)) || case when length(value) > 40 then '…' else '' end
$$;

-- What may be sent, as domain::limits and the gateway have it. What is null isn't sent.

create function watchwork.check_name(field text, name text) returns void language plpgsql as $$
begin
    if length(name) > 128 or name !~ '^[a-z0-9][a-z0-9._-]*$' collate "C" then
        perform watchwork.refuse(field, watchwork.shown(name) || ' must be [a-z0-9][a-z0-9._-]{0,127}');
    end if;
end $$;

create function watchwork.check_texts(
    job_type text, content_type text, correlation_id text, idempotency_key text
) returns void language plpgsql as $$
declare
    key_bytes int4 := octet_length(convert_to(idempotency_key, 'UTF8'));
begin
    if length(job_type) > 128 or job_type !~ '^[A-Za-z0-9][A-Za-z0-9._/:-]*$' collate "C" then
        perform watchwork.refuse('job_type',
            watchwork.shown(job_type) || ' must be [A-Za-z0-9][A-Za-z0-9._/:-]{0,127}');
    end if;
    if length(content_type) > 127 or content_type !~ '^[ -~]*$' collate "C" then
        perform watchwork.refuse('content_type', 'must be at most 127 characters of printable ASCII');
    end if;
    if length(correlation_id) > 128 or correlation_id !~ '^[A-Za-z0-9._:-]*$' collate "C" then
        perform watchwork.refuse('correlation_id',
            watchwork.shown(correlation_id) || ' must be at most 128 of [A-Za-z0-9._:-]');
    end if;
    if key_bytes > 255 then
        perform watchwork.refuse('idempotency_key', key_bytes || ' bytes; at most 255 are allowed');
    end if;
end $$;

create function watchwork.check_payload(payload bytea) returns void language plpgsql as $$
begin
    if octet_length(payload) > 1048576 then
        perform watchwork.refuse('payload', octet_length(payload)
            || ' bytes; at most 1048576 are allowed: store it and send its address');
    end if;
end $$;

-- Labels or headers: an object of texts.
create function watchwork.check_pairs(field text, pairs jsonb, most int8) returns void
language plpgsql as $$
declare
    many int8;
    name text;
begin
    if jsonb_typeof(pairs) <> 'object' then
        perform watchwork.refuse(field, 'must be a JSON object of strings');
    end if;
    select count(*) into many from jsonb_object_keys(pairs);
    if many > most then
        perform watchwork.refuse(field, format('%s %s; at most %s are allowed', many, field, most));
    end if;
    select p.key into name from jsonb_each(pairs) p where jsonb_typeof(p.value) <> 'string' limit 1;
    if found then
        perform watchwork.refuse(field, format('the value of %s must be a string', watchwork.shown(name)));
    end if;
end $$;

create function watchwork.check_labels(labels jsonb) returns void language plpgsql as $$
declare
    name  text;
    value text;
begin
    if labels = '{}' then
        return;
    end if;
    perform watchwork.check_pairs('labels', labels, 16);
    for name, value in select * from jsonb_each_text(labels) loop
        if length(name) not between 1 and 63 then
            perform watchwork.refuse('labels',
                format('name %s must be 1 to 63 characters', watchwork.shown(name)));
        end if;
        if length(value) > 255 then
            perform watchwork.refuse('labels',
                format('the value of %s must be at most 255 characters', watchwork.shown(name)));
        end if;
    end loop;
end $$;

create function watchwork.check_headers(headers jsonb) returns void language plpgsql as $$
declare
    name  text;
    value text;
    bytes int8 := 0;
begin
    if headers = '{}' then
        return;
    end if;
    perform watchwork.check_pairs('headers', headers, 32);
    for name, value in select * from jsonb_each_text(headers) loop
        if length(name) > 64 or name !~ '^[A-Za-z0-9-]+$' collate "C" then
            perform watchwork.refuse('headers',
                format('name %s must be [A-Za-z0-9-]{1,64}', watchwork.shown(name)));
        end if;
        if lower(name) in ('traceparent', 'tracestate', 'x-correlation-id') then
            perform watchwork.refuse('headers', watchwork.shown(name) || ' is the system''s own');
        end if;
        if value !~ '^[ -~]*$' collate "C" then
            perform watchwork.refuse('headers',
                format('the value of %s must be printable ASCII', watchwork.shown(name)));
        end if;
        bytes := bytes + length(name) + length(value);
    end loop;
    if bytes > 8192 then
        perform watchwork.refuse('headers', bytes || ' bytes; at most 8192 are allowed');
    end if;
end $$;

create function watchwork.check_due(due_at timestamptz, at timestamptz) returns void language plpgsql as $$
begin
    if due_at < to_timestamp(0) then
        perform watchwork.refuse('due_at', 'it lies before 1970');
    end if;
    if due_at > at + interval '87840 hours' then
        perform watchwork.refuse('due_at', 'it lies more than 10 years ahead');
    end if;
end $$;

create function watchwork.check_span(field text, span interval, shortest interval) returns void
language plpgsql as $$
begin
    if span not between shortest and '24 hours' then
        perform watchwork.refuse(field, format('%s; %s to 24:00:00 is allowed', span, shortest));
    end if;
end $$;

create function watchwork.check_retries(
    max_attempts int4, initial_backoff interval, multiplier float8, max_backoff interval
) returns void language plpgsql as $$
begin
    if max_attempts not between 1 and 1000 then
        perform watchwork.refuse('max_attempts', max_attempts || '; 1 to 1000 are allowed');
    end if;
    perform watchwork.check_span('initial_backoff', initial_backoff, '0');
    if multiplier not between 1 and 100 then
        perform watchwork.refuse('multiplier', multiplier || '; 1 to 100 is allowed');
    end if;
    perform watchwork.check_span('max_backoff', max_backoff, '0');
end $$;

-- Numbers for names.

create function watchwork.priority_number(name text) returns int2 language plpgsql immutable as $$
declare
    number int2 := array_position(array['critical', 'high', 'normal', 'low'], name);
begin
    if number is null then
        perform watchwork.refuse('priority',
            watchwork.shown(name) || ' is none: critical, high, normal and low are known');
    end if;
    return number;
end $$;

-- Tenant 0 announces types for all.
create function watchwork.numbers(
    tenant text, queue text, job_type text,
    out tenant_number int4, out queue_number int4, out lanes int2[], out type_number int4
) language plpgsql stable as $$
begin
    select t.number, q.number, q.lanes into tenant_number, queue_number, numbers.lanes
        from tenant t left join queue q on q.tenant = t.number and q.name = numbers.queue
        where t.name = numbers.tenant;
    if tenant_number is null then
        perform watchwork.unknown('tenant', 'there is no tenant ' || watchwork.shown(tenant));
    end if;
    if queue_number is null then
        perform watchwork.unknown('queue', 'there is no queue ' || watchwork.shown(queue));
    end if;
    select j.number into type_number from job_type j
        where j.tenant in (tenant_number, 0) and j.name = numbers.job_type order by j.tenant desc limit 1;
    if type_number is null then
        perform watchwork.unknown('job_type', format(
            'no worker ever announced the type %s: is its name right, and has a worker run?',
            watchwork.shown(job_type)));
    end if;
end $$;

-- Equal retry policies share a number.
create function watchwork.policy_number(
    max_attempts int4, initial_us int8, multiplier float8, max_us int8, jitter boolean
) returns int4 language plpgsql as $$
#variable_conflict use_column
declare
    number int4;
begin
    loop
        select p.number into number from retry_policy p
            where p.max_attempts = policy_number.max_attempts and p.initial_us = policy_number.initial_us
                and p.multiplier = policy_number.multiplier and p.max_us = policy_number.max_us
                and p.jitter = policy_number.jitter;
        exit when found;
        insert into retry_policy (max_attempts, initial_us, multiplier, max_us, jitter)
            values (policy_number.max_attempts, policy_number.initial_us, policy_number.multiplier,
                policy_number.max_us, policy_number.jitter)
            on conflict do nothing;
    end loop;
    return number;
end $$;

create function watchwork.has_window(of_table text, hour int4) returns boolean language plpgsql stable as $$
begin
    return exists (select from "window" w
        where w.table_name = of_table and w.from_hour <= hour and w.to_hour > hour);
end $$;

-- Idempotency keys.

-- The execution that a key names on a day, or since the day before; if any, one that was to do the same.
create function watchwork.named_by(key uuid, fingerprint int8, day int4) returns uuid
language plpgsql as $$
#variable_conflict use_column
declare
    known idempotency%rowtype;
begin
    select * into known from idempotency i
        where i.key = named_by.key and i.win in (day - 24, day) limit 1;
    if known.fingerprint <> named_by.fingerprint then
        raise exception 'idempotency_key: it is that of execution %, which was to do something else', known.id
            using errcode = 'WW409', column = 'idempotency_key', detail = known.id;
    end if;
    return known.id;
end $$;

-- Gives a key to the execution `id`, unless it names one already; tells which one it names then. A key that
-- an open transaction holds is waited for.
--
-- It goes into the windows of this day and the next: the transaction may go on beyond midnight, and whoever
-- uses the key then meets it there. A transaction that sees what there was when it began, and not what there
-- is, meets a newer key only where that stands: so it begins with the window of that time.
create function watchwork.take_key(key uuid, fingerprint int8, tenant int4, id uuid, at timestamptz)
returns uuid language plpgsql as $$
#variable_conflict use_column
declare
    today int4 := idempotency_window(at);
    first int4 := today;
    named uuid := watchwork.named_by(key, fingerprint, today);
begin
    if named is not null then
        return named;
    end if;
    if not watchwork.has_window('idempotency', today + 24) then
        perform watchwork.not_ready();
    end if;
    if current_setting('transaction_isolation') not like 'read %' then
        first := idempotency_window(now() - interval '1 minute');
    end if;
    for win in first .. today + 24 by 24 loop
        insert into idempotency (win, key, fingerprint, tenant, id)
            values (win, take_key.key, take_key.fingerprint, take_key.tenant, take_key.id)
            on conflict do nothing;
        continue when found;
        if win = first then
            named := watchwork.named_by(key, fingerprint, first);
        end if;
        if named is null then
            raise exception 'the idempotency key came into use at the turn of the day'
                using errcode = 'serialization_failure', hint = 'Run the transaction again.';
        end if;
        return named;
    end loop;
    return id;
end $$;

-- An argument that is null is as one that is left out.
create function watchwork.submit(
    tenant           text,
    job_type         text,
    payload          bytea       default '',
    queue            text        default 'default',
    priority         text        default 'normal',                       -- critical, high, normal, low
    content_type     text        default '',
    due_at           timestamptz default null,                           -- null, or past: at once
    idempotency_key  text        default null,
    labels           jsonb       default '{}',
    headers          jsonb       default '{}',
    correlation_id   text        default '',
    timeout          interval    default '1 hour',
    max_attempts     int4        default 5,
    initial_backoff  interval    default '2 seconds',
    multiplier       float8      default 2,
    max_backoff      interval    default '1 hour',
    jitter           boolean     default true,
    out execution_id uuid,
    out duplicate    boolean                                             -- the key named it before
) language plpgsql security definer as $$
#variable_conflict use_column
declare
    at     timestamptz := clock_timestamp();
    home   timestamptz := case when due_at > at then due_at else at end;
    lanes  int2[];
    id_key bytea;
    named  uuid;
    e      execution%rowtype;
begin
    tenant := coalesce(tenant, '');
    job_type := coalesce(job_type, '');
    payload := coalesce(payload, '');
    queue := coalesce(nullif(queue, ''), 'default');
    content_type := coalesce(content_type, '');
    idempotency_key := nullif(idempotency_key, '');
    timeout := coalesce(timeout, '1 hour');
    max_attempts := coalesce(max_attempts, 5);
    initial_backoff := coalesce(initial_backoff, '2 seconds');
    multiplier := coalesce(multiplier, 2);
    max_backoff := coalesce(max_backoff, '1 hour');

    perform watchwork.check_name('tenant', tenant);
    perform watchwork.check_name('queue', queue);
    perform watchwork.check_texts(job_type, content_type, correlation_id, idempotency_key);
    perform watchwork.check_payload(payload);
    perform watchwork.check_labels(labels);
    perform watchwork.check_headers(headers);
    perform watchwork.check_due(due_at, at);
    perform watchwork.check_span('timeout', timeout, '1 millisecond');
    perform watchwork.check_retries(max_attempts, initial_backoff, multiplier, max_backoff);
    e.priority := watchwork.priority_number(coalesce(priority, 'normal'));
    select * into e.tenant, e.queue, lanes, e.job_type from watchwork.numbers(tenant, queue, job_type);
    select i.id_key into id_key from installation i;
    if id_key is null or not watchwork.has_window('inbox', watchwork.hour(at)) then
        perform watchwork.not_ready();
    end if;

    e.seq := nextval('ext_seq');
    e.lane := lanes[1 + watchwork.turn(idempotency_key, e.seq) % cardinality(lanes)];
    execution_id := watchwork.execution_id(id_key, e.lane, e.seq, home);
    duplicate := false;
    if idempotency_key is not null then
        named := watchwork.take_key(
            watchwork.idempotency_key(e.tenant, idempotency_key),
            watchwork.idempotency_fingerprint(e.queue, job_type, content_type, due_at, payload),
            e.tenant, execution_id, at);
        if named <> execution_id then
            execution_id := named;
            duplicate := true;
            return;
        end if;
    end if;

    e.win := watchwork.hour(home);
    e.at := at;
    e.due_at := nullif(home, at);
    e.timeout_us := watchwork.micros(timeout);
    e.retry_policy := watchwork.policy_number(max_attempts, watchwork.micros(initial_backoff), multiplier,
        watchwork.micros(max_backoff), coalesce(jitter, true));
    e.correlation_id := nullif(correlation_id, '');
    e.labels := nullif(labels, '{}');
    e.headers := nullif(headers, '{}');
    e.payload := payload;
    e.content_type := nullif(content_type, '');
    if watchwork.has_window('execution', e.win) then
        insert into execution values (e.*);
    else
        insert into kept_execution values (e.*);
    end if;
    insert into inbox (win, lane, kind, seq, tenant, queue, priority, job_type, home, due_at) values
        (watchwork.hour(at), e.lane, 1, e.seq, e.tenant, e.queue, e.priority, e.job_type, e.win, e.due_at);
end $$;

comment on function watchwork.submit is
    'Hands in an execution with the transaction that calls it: it runs once that has committed.';

-- It finds the tables where they are, wherever its caller looks for his.
do $$
begin
    execute format('alter function watchwork.submit set search_path = %I, pg_temp', current_schema());
end $$;

revoke all on all functions in schema watchwork from public;

-- Who may submit, and nothing else. Without it the owner of the function has to grant the same to others.
do $$
begin
    if to_regrole('watchwork_submitter') is null then
        create role watchwork_submitter nologin;
    end if;
exception
    when duplicate_object or unique_violation then                       -- by another database, just now
    when insufficient_privilege then
        raise notice 'the role watchwork_submitter is missing, and % may not create it', current_user;
end $$;
do $$
begin
    if to_regrole('watchwork_submitter') is not null then
        grant usage on schema watchwork to watchwork_submitter;
        grant execute on function watchwork.submit to watchwork_submitter;
    end if;
end $$;
