-- Retry policies: how back-offs grow, how many lost workers an execution survives, and how long all of it may
-- take. What was submitted before keeps what held then.
alter table retry_policy
    add growth   int2 not null default 1,                                -- domain::Growth
    add max_lost int2 not null default 3,
    add total_us int8 not null default 0;                                -- 0: none

do $$
declare
    of_five text := conname from pg_constraint
        where conrelid = 'retry_policy'::regclass and contype = 'u' and cardinality(conkey) = 5;
begin
    execute format('alter table retry_policy drop constraint %I', of_five);
end $$;
alter table retry_policy add constraint retry_policy_once
    unique (max_attempts, growth, initial_us, multiplier, max_us, jitter, max_lost, total_us);

-- watchwork.submit() with the same.
create function watchwork.growths() returns text[] language sql immutable as $$
    select array['exponential', 'linear', 'fixed']
$$;

create function watchwork.check_budgets(growth text, max_lost int4, total_timeout interval) returns void
language plpgsql as $$
begin
    if growth <> all (watchwork.growths()) then
        perform watchwork.refuse('growth',
            watchwork.shown(growth) || ' is none: exponential, linear and fixed are known');
    end if;
    if max_lost not between 0 and 100 then
        perform watchwork.refuse('max_lost', max_lost || '; 0 to 100 are allowed');
    end if;
    if total_timeout not between '1 millisecond' and '87840 hours' then
        perform watchwork.refuse('total_timeout',
            format('%s; 1 millisecond to 87840 hours is allowed', total_timeout));
    end if;
end $$;

drop function watchwork.policy_number;
create function watchwork.policy_number(
    max_attempts int4, growth int2, initial_us int8, multiplier float8, max_us int8, jitter boolean,
    max_lost int4, total_us int8
) returns int4 language plpgsql as $$
#variable_conflict use_column
declare
    number int4;
begin
    loop
        select p.number into number from retry_policy p
            where p.max_attempts = policy_number.max_attempts and p.growth = policy_number.growth
                and p.initial_us = policy_number.initial_us and p.multiplier = policy_number.multiplier
                and p.max_us = policy_number.max_us and p.jitter = policy_number.jitter
                and p.max_lost = policy_number.max_lost and p.total_us = policy_number.total_us;
        exit when found;
        insert into retry_policy
                (max_attempts, growth, initial_us, multiplier, max_us, jitter, max_lost, total_us)
            values (policy_number.max_attempts, policy_number.growth, policy_number.initial_us,
                policy_number.multiplier, policy_number.max_us, policy_number.jitter,
                policy_number.max_lost, policy_number.total_us)
            on conflict do nothing;
    end loop;
    return number;
end $$;

-- Who was let submit by the old one is let by the new.
alter function watchwork.submit rename to submit_before;

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
    growth           text        default 'exponential',                  -- exponential, linear, fixed
    max_lost         int4        default 3,
    total_timeout    interval    default null,                           -- null: none
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
    growth := coalesce(growth, 'exponential');
    max_lost := coalesce(max_lost, 3);

    perform watchwork.check_name('tenant', tenant);
    perform watchwork.check_name('queue', queue);
    perform watchwork.check_texts(job_type, content_type, correlation_id, idempotency_key);
    perform watchwork.check_payload(payload);
    perform watchwork.check_labels(labels);
    perform watchwork.check_headers(headers);
    perform watchwork.check_due(due_at, at);
    perform watchwork.check_span('timeout', timeout, '1 millisecond');
    perform watchwork.check_retries(max_attempts, initial_backoff, multiplier, max_backoff);
    perform watchwork.check_budgets(growth, max_lost, total_timeout);
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
    e.retry_policy := watchwork.policy_number(max_attempts,
        array_position(watchwork.growths(), growth)::int2, watchwork.micros(initial_backoff), multiplier,
        watchwork.micros(max_backoff), coalesce(jitter, true), max_lost,
        coalesce(watchwork.micros(total_timeout), 0));
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

do $$
declare
    grantee regrole;
begin
    execute format('alter function watchwork.submit set search_path = %I, pg_temp', current_schema());
    revoke all on all functions in schema watchwork from public;
    for grantee in
        select a.grantee from pg_proc p cross join aclexplode(p.proacl) a
            where p.oid = 'watchwork.submit_before'::regproc and a.grantee not in (0, p.proowner)
    loop
        execute format('grant execute on function watchwork.submit to %s', grantee);
    end loop;
end $$;
drop function watchwork.submit_before;
