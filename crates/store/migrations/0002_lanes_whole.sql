-- What lanes need to be whole: work for later, idempotency keys, the inbox, snapshots, windows that go.

-- Options of queues and tenants.
alter table queue
    add strict    boolean not null default false,                        -- a higher priority first, always
    add max_depth int8 check (max_depth >= 0);                           -- null: none
alter table tenant
    add max_depth int8 check (max_depth >= 0);

-- Executions that are due later than they were accepted, and why an entry waits.
alter table execution add due_at timestamptz;                            -- null: at once
alter table due add wait int2 not null default 2;                        -- domain::lane::Wait
alter table due alter wait drop default;

-- The numbers of executions that come through the inbox, above every number that an owner gives.
create sequence ext_seq as int8 minvalue 8796093022208 maxvalue 17592186044415 start 8796093022208;

-- A lane's memory at one of its rows, in parts: recovery begins there.
create table lane_snapshot (
    lane  int2 not null,
    n     int8 not null,
    part  int2 not null,
    parts int2 not null,                                                 -- how many there are
    at    timestamptz not null default clock_timestamp(),
    body  bytea not null,                                                -- domain::lane::Lane, versioned
    primary key (lane, n, part)
);
alter table lane_snapshot alter body set storage external;

-- Idempotency keys, for at least one window's width, which is a day.
create table idempotency (
    win         int4 not null,                                           -- the first hour of the window
    key         uuid not null,                                           -- of tenant and key: idempotency_key()
    fingerprint int8 not null,                                           -- of what is to be done
    tenant      int4 not null,
    id          uuid not null,                                           -- the execution's
    primary key (key, win)
) partition by range (win);

create function idempotency_window(at timestamptz) returns int4 language sql immutable as $$
    select (floor(extract(epoch from at) / 86400) * 24)::int4
$$;

-- Fails the statement that calls it unless every key went in everywhere: some are somebody else's.
create function key_fence(inserted int8, meant int8) returns int8 language plpgsql as $$
begin
    if inserted <> meant then
        raise exception 'only % of % idempotency keys are free', inserted, meant using errcode = 'WW002';
    end if;
    return inserted;
end $$;

-- What outlives its window, or lies beyond all windows; few, and cleared in bulk.
create table kept_execution (like execution including all);
create table kept_outcome (like outcome including all);
create table kept_due (like due including all);

-- How anyone hands work to a lane that isn't his. Order of commit isn't order of insertion: it is read
-- from snapshot to snapshot (see store's inbox.rs).
create sequence inbox_ord as int8;
create table inbox (
    win      int4 not null,                                              -- the hour of the insertion
    lane     int2 not null,
    xid      xid8 not null default pg_current_xact_id(),
    ord      int8 not null default nextval('inbox_ord'),
    kind     int2 not null,                                              -- 1: an execution
    seq      int8 not null,
    tenant   int4 not null,
    queue    int4 not null,
    priority int2 not null,
    job_type int4 not null,
    home     int4 not null,
    due_at   timestamptz,                                                -- null: at once
    primary key (lane, xid, ord, win)
) partition by range (win);
