-- A queue of which nothing is ever updated or deleted: each client owns a lane and knows its ends.
drop table if exists lane_job, lane_claim, lane_outcome;
create table lane_job (
    lane         int2 not null,
    seq          int8 not null,
    max_attempts int2 not null default 3,
    created_at   timestamptz not null default now(),
    kind         text not null,
    payload      jsonb not null,
    primary key (lane, seq)
);
create table lane_claim (
    lane   int2 not null,
    lo     int8 not null,
    hi     int8 not null,
    worker int4 not null,
    at     timestamptz not null default now(),
    primary key (lane, lo)
);
create table lane_outcome (
    lane   int2 not null,
    seq    int8 not null,
    at     timestamptz not null default now(),
    state  int4 not null,
    took   int4[],
    failed int8[] not null default '{}',
    primary key (lane, seq, at)
);
