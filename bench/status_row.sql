-- A queue as most are built on PostgreSQL: a row's state is updated as the job goes.
drop table if exists status_job;
create table status_job (
    id           int8 generated always as identity primary key,
    queue        int2 not null default 0,
    priority     int2 not null default 0,
    state        int2 not null default 0,          -- 0 waits, 1 runs, 2 is done
    attempt      int2 not null default 0,
    max_attempts int2 not null default 3,
    worker       int4,
    run_at       timestamptz not null default now(),
    created_at   timestamptz not null default now(),
    started_at   timestamptz,
    finished_at  timestamptz,
    kind         text not null,
    payload      jsonb not null
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
create index status_job_waiting on status_job (queue, priority, run_at, id) where state = 0;
create index status_job_running on status_job (started_at) where state = 1;
