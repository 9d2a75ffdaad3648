-- Everything a lane stands on. Hot tables (chain, execution, outcome, due) are only ever inserted into;
-- they are partitioned by window, and their leaves come and go by ATTACH and DETACH CONCURRENTLY.

-- The installation: one row, never changed.
create table installation (
    only_one     boolean primary key default true check (only_one),
    lanes        int2 not null check (lanes between 1 and 4096),
    id_key       bytea not null check (octet_length(id_key) = 16),      -- of the ids' tags; never rotated
    installed_at timestamptz not null default clock_timestamp()
);

-- Configuration: changed by people.
create table tenant (
    number int4 generated always as identity primary key,
    name   text not null unique
);
create table queue (
    number int4 generated always as identity primary key,
    tenant int4 not null references tenant,
    name   text not null,
    lanes  int2[] not null check (cardinality(lanes) >= 1),              -- chosen once, when it is made
    unique (tenant, name)
);
create table job_type (
    number int4 generated always as identity primary key,
    tenant int4 not null,                                                -- 0: announced for every tenant
    name   text not null,
    unique (tenant, name)
);
create table retry_policy (                                              -- equal policies share a number
    number       int4 generated always as identity primary key,
    max_attempts int2 not null,
    initial_us   int8 not null,
    multiplier   float8 not null,
    max_us       int8 not null,
    jitter       boolean not null,
    unique (max_attempts, initial_us, multiplier, max_us, jitter)
);
create table api_key (
    id            text primary key,                                      -- the public part
    secret_sha256 bytea not null check (octet_length(secret_sha256) = 32),
    tenant        int4 not null,                                         -- 0: all tenants (workers only)
    scopes        int2[] not null,
    created_at    timestamptz not null default clock_timestamp(),
    revoked_at    timestamptz
);

-- Who lives and who owns what: each row is updated once in two seconds.
create table scheduler (
    id          text primary key,
    incarnation uuid not null,                                           -- this process of that name
    address     text not null,
    seen        timestamptz not null
) with (fillfactor = 50);
create table lane_lease (
    lane        int2 primary key,
    epoch       int8 not null,
    incarnation uuid not null,
    holder      text not null,                                           -- scheduler.id
    expires_at  timestamptz not null,
    unique (lane, epoch)
) with (fillfactor = 50);
create table leader_lease (
    name         text primary key,
    epoch        int8 not null,
    incarnation  uuid not null,
    holder_label text not null,                                          -- for people, never compared
    acquired_at  timestamptz not null,
    expires_at   timestamptz not null,
    unique (name, epoch)  -- load-bearing: without it FOR KEY SHARE doesn't stop a take-over
) with (fillfactor = 50);
insert into leader_lease values ('leader', 0, '00000000-0000-0000-0000-000000000000', '', '-infinity', '-infinity');

-- Which leaf holds which hours (since 1970) of which table: the only way from an hour to a leaf.
create table "window" (
    table_name text not null,
    from_hour  int4 not null,
    to_hour    int4 not null check (to_hour > from_hour),                -- exclusive
    leaf       text not null unique,
    state      int2 not null default 1,                                  -- 1 open
    primary key (table_name, from_hour)
);

-- The chain: one row a lane and commit. Its key (lane, n) is the lane's fence.
create table chain (
    lane      int2 not null,
    n         int8 not null,
    batch     uuid not null,                                             -- random: tells one's own row
    epoch     int8 not null,
    kind      int2 not null,                                             -- domain::lane::RowKind
    jump_to   int8,
    at        timestamptz not null,
    next_seq  int8 not null,
    submitted int8 not null,                                             -- running totals
    claimed   int8 not null,
    finished  int8 not null,
    delta     bytea not null,                                            -- domain::lane::Delta, versioned
    primary key (lane, n)
) partition by range (n);

create table execution (
    win            int4 not null,                                        -- home hour
    lane           int2 not null,
    seq            int8 not null,
    tenant         int4 not null,
    queue          int4 not null,
    job_type       int4 not null,
    priority       int2 not null,
    at             timestamptz not null,                                 -- accepted
    timeout_us     int8 not null,
    retry_policy   int4 not null,
    trace          bytea,                                                -- trace id, gateway's span id, flags
    parent_span    bytea,                                                -- the client's span id
    request_at     timestamptz,                                          -- by the gateway's clock
    tracestate     text,
    correlation_id text,
    labels         jsonb,
    headers        jsonb,
    payload        bytea not null,
    content_type   text,
    primary key (lane, seq, win)
) partition by range (win);
alter table execution alter payload set storage external;
create index execution_by_queue on execution (queue, at, lane, seq);

create table outcome (
    win           int4 not null,                                         -- its execution's
    lane          int2 not null,
    seq           int8 not null,
    fence         int8 not null,
    tenant        int4 not null,
    queue         int4 not null,
    attempt       int2 not null,
    result        int2 not null,                                         -- domain::AttemptResult
    state         int2 not null,                                         -- domain::ExecutionState
    reason        int2 not null,                                         -- domain::Reason
    attempts_used int2 not null,
    lost_used     int2 not null,
    worker        text not null,
    claimed_at    timestamptz not null,
    queued_us     int8 not null,                                         -- the phases of the attempt
    dispatch_us   int8 not null,
    run_us        int8 not null,
    report_us     int8 not null,
    at            timestamptz not null,                                  -- recorded
    next_at       timestamptz,
    error_class   text,
    error_message text,
    output        bytea,
    output_type   text,
    trace_kept    boolean not null,
    primary key (lane, seq, fence, win)
) partition by range (win);
create index outcome_unsuccessful on outcome (queue, state, at, lane, seq) where state <> 6;

create table due (
    win      int4 not null,                                              -- the hour of due_at
    lane     int2 not null,
    due_at   timestamptz not null,
    seq      int8 not null,
    home     int4 not null,
    tenant   int4 not null,
    queue    int4 not null,
    priority int2 not null,
    job_type int4 not null,
    attempts int2 not null,
    lost     int2 not null,
    primary key (lane, due_at, seq, win)
) partition by range (win);

-- Fails the statement that calls it unless as many chain rows went in as lanes were meant: some lane's
-- last row isn't the one its owner knows.
create function chain_fence(inserted int8, meant int8) returns int8 language plpgsql as $$
begin
    if inserted <> meant then
        raise exception 'only % of % chain rows follow the row that their owner knows', inserted, meant
            using errcode = 'WW001';
    end if;
    return inserted;
end $$;
